"""Placement by Arrow's lexicographic costs (arXiv 2505.11916, Algorithm 1), over gateways' views.

The cost of a pod for a stage is a pair: first the work of other phases that it still holds, then
the queue of its own. So pods in transition rank behind clean ones, without being named. A pod meets
the SLO if that queue ends within the TTFT, or if its decode steps stay within the TPOT. Where the
cheapest pod of the role does not, a pod of another role takes this one request: where Arrow flips a
label for it, we overflow. Encode is Arrow's idea applied to a third stage.

A baseline: `epd.policy.placement` adds the two parts up, in milliseconds.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress
from types import MappingProxyType
from typing import Final

from epd.policy.admission import step_ms
from epd.policy.candidates import draw, in_turn, of_hash
from epd.policy.placement import Choice, PairChoice
from epd.policy.pods import Costs, PodView, answers_lost, service_ms
from epd.vocabulary import Stage

_QUEUES: Final = {
    Stage.ENCODE: (Stage.ENCODE,),
    Stage.PREFILL: (Stage.ENCODE, Stage.PREFILL),  # who prefills may encode before
    Stage.DECODE: (Stage.DECODE,),
}
_RESIDUES: Final = {
    Stage.ENCODE: (Stage.PREFILL, Stage.DECODE),
    Stage.PREFILL: (Stage.DECODE,),
    Stage.DECODE: (Stage.ENCODE, Stage.PREFILL),
}

DECODE_LOAD: Final = 0.5
"""Of the TPOT, what steps may take on a pod that is to help (Narwhal; Arrow's own is unknown)."""

Cost = tuple[bool, float, float]


class Lexicographic:
    """The decisions of `epd.policy.placement` that a simulated gateway asks for, Arrow's way.

    Args:
        slo_first: Rank pods that meet the SLO before those that do not, whatever they hold (Arrow
            takes the cheapest and asks for the SLO then), and ask of a pod of another role what
            `epd.policy.placement` asks: then nothing differs from it but the cost.
    """

    def __init__(self, *, slo_first: bool = False) -> None:
        self._slo_first = slo_first

    def place_encode(
        self,
        pods: Iterable[PodView],
        image_key: int,
        costs: Costs,
        *,
        turn: int = 0,
        avoid: Collection[str] = (),
        compatibility_hash: str = "",
    ) -> Choice | None:
        """Return the pod that should encode an image; Arrow knows no homes of images."""
        fitting = of_hash(pods, compatibility_hash)
        return self._schedule(fitting, Stage.ENCODE, costs, turn, avoid)

    def place_generation(
        self,
        pods: Iterable[PodView],
        costs: Costs,
        *,
        images: int = 0,
        turn: int = 0,
        avoid: Collection[str] = (),
        compatibility_hash: str = "",
        embeddings_at: Collection[str] = (),
        prefix_at: Mapping[str, float] = MappingProxyType({}),
    ) -> PairChoice | None:
        """Return the pods for prefill and decode, each by its own cost.

        A pod that is offered encode as well encodes what it prefills.
        """
        fitting = of_hash(pods, compatibility_hash)
        prefill = self._schedule(fitting, Stage.PREFILL, costs, turn, avoid)
        decode = self.place_decode(fitting, costs, turn=turn, avoid=avoid)
        if prefill is None or decode is None:
            return None
        if Stage.DECODE in prefill.pod.stages:  # the KV cache stays
            decode = Choice(prefill.pod, 0.0, False)
        overflow = tuple(
            compress((Stage.PREFILL, Stage.DECODE), (prefill.overflow, decode.overflow))
        )
        fused = images > 0 and Stage.ENCODE in prefill.pod.stages
        cost_ms = prefill.wait_ms + decode.wait_ms
        return PairChoice(prefill.pod, decode.pod, cost_ms, overflow, fused)

    def place_decode(
        self,
        pods: Iterable[PodView],
        costs: Costs,
        *,
        turn: int = 0,
        avoid: Collection[str] = (),
        compatibility_hash: str = "",
    ) -> Choice | None:
        """Return the pod that should decode what is prefilled already."""
        fitting = of_hash(pods, compatibility_hash)
        return self._schedule(fitting, Stage.DECODE, costs, turn, avoid)

    def _schedule(
        self,
        pods: Sequence[PodView],
        stage: Stage,
        costs: Costs,
        turn: int,
        avoid: Collection[str],
    ) -> Choice | None:
        """Algorithm 1 for one stage, with overflow in the place of a flip."""

        def cost(pod: PodView) -> Cost:
            return _cost(pod, stage, costs, slo_first=self._slo_first)

        def choice(pod: PodView, *, overflow: bool) -> Choice:
            return Choice(pod, cost(pod)[2], overflow)

        drawn, overflow, _ = draw(pods, stage, avoid)
        if not drawn:
            return None
        best = min(in_turn(drawn, turn, costs), key=cost)
        if overflow or stage is Stage.DECODE or _meets_slo(best, stage, costs):
            return choice(best, overflow=overflow)
        usual_ms = service_ms(best, stage, costs)
        others = [
            pod
            for pod in pods
            if _trusted(pod, stage, avoid) and self._spares(pod, stage, usual_ms, costs)
        ]
        if others and _meets_slo(other := min(others, key=cost), stage, costs):
            return choice(other, overflow=True)
        return choice(best, overflow=False)

    def _spares(self, pod: PodView, stage: Stage, usual_ms: float, costs: Costs) -> bool:
        """Arrow's overload rule: nothing is taken from decode while decode is loaded."""
        answers = pod.loads[Stage.DECODE]
        if answers.waiting or pod.kv_used_permille > costs.kv_full_permille:
            return False
        if self._slo_first:
            work_ms = max(usual_ms, service_ms(pod, stage, costs))
            return answers_lost(pod, work_ms, costs) <= costs.overflow_price
        return step_ms(pod, answers.outstanding, costs) < DECODE_LOAD * costs.tpot_ms


def _cost(pod: PodView, stage: Stage, costs: Costs, *, slo_first: bool) -> Cost:
    misses = slo_first and not _meets_slo(pod, stage, costs)
    return (misses, _work_ms(pod, _RESIDUES[stage], costs), _work_ms(pod, _QUEUES[stage], costs))


def _work_ms(pod: PodView, stages: Collection[Stage], costs: Costs) -> float:
    """Return the work of some stages; answers count as equally long on every pod."""
    return sum(
        pod.loads[stage].outstanding
        * (costs.decode_ms if stage is Stage.DECODE else service_ms(pod, stage, costs))
        for stage in stages
    )


def _meets_slo(pod: PodView, stage: Stage, costs: Costs) -> bool:
    if stage is Stage.DECODE:
        answers = pod.loads[stage]
        return not answers.waiting and step_ms(pod, answers.outstanding + 1, costs) <= costs.tpot_ms
    return _work_ms(pod, _QUEUES[stage], costs) + service_ms(pod, stage, costs) <= costs.ttft_ms


def _trusted(pod: PodView, stage: Stage, avoid: Collection[str]) -> bool:
    known = pod.healthy and not pod.suspect and pod.name not in avoid
    return known and stage not in pod.stages
