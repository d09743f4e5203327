"""What placement knows of a pod, and how long new work would wait there.

A pod's predicted wait for a stage is the work it holds times the mean time of one piece there.
Stages of one pod share its accelerator, so work of the others counts by the shares of `Costs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf
from typing import Final

from epd.vocabulary import Stage

_ENCODE: Final = Stage.ENCODE
_PREFILL: Final = Stage.PREFILL
_DECODE: Final = Stage.DECODE

_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3
_MASK_64: Final = (1 << 64) - 1


@dataclass(slots=True)
class StageView:
    """One stage on one pod.

    Attributes:
        outstanding: Pieces of work placed there and not finished, from all gateways.
        waiting: Those of them that have not started.
        service_ms: Mean time of one piece, without waiting; 0 while unknown.
        tokens: Mean tokens of one piece; 0 while unknown.
        batch: Pieces side by side when that was learnt, on average.
    """

    outstanding: int = 0
    waiting: int = 0
    service_ms: float = 0.0
    tokens: float = 0.0
    batch: float = 0.0


@dataclass(slots=True)
class PodView:
    """What placement knows of one pod. The owner updates it in place; placement only reads.

    Attributes:
        name: The pod's name.
        stages: The stages its role offers.
        compatibility_hash: Handoffs happen between equal ones only.
        healthy: It answers and is ready; nothing is placed where this is False.
        suspect: It missed a deadline lately; placed on only if nobody else is left.
        kv_used_permille: Fill of its KV cache.
        loads: The load of each stage.
        salt: A number drawn from the name; the home of an image depends on it.
    """

    name: str
    stages: frozenset[Stage] = frozenset()
    compatibility_hash: str = ""
    healthy: bool = True
    suspect: bool = False
    kv_used_permille: int = 0
    loads: dict[Stage, StageView] = field(
        default_factory=lambda: {stage: StageView() for stage in Stage}
    )
    salt: int = 0

    def __post_init__(self) -> None:
        """Draw the salt from the name where none was given."""
        if not self.salt:
            self.salt = _salt(self.name)


@dataclass(frozen=True, slots=True)
class Costs:
    """The constants of the prediction; times in milliseconds.

    Attributes:
        encode_ms: Time of one image on a pod that has not encoded yet.
        prefill_ms: Time of one prompt on a pod that has not prefilled yet.
        decode_ms: Time of one answer on a pod that has not decoded yet.
        ec_handoff_ms: Moving one embedding to another pod.
        kv_handoff_ms: Moving one KV cache to another pod, and one more call.
        encode_share: How much of a pending encode delays the language model on the same pod.
        prefill_share: How much of a pending prefill delays encode and decode on the same pod.
        decode_share: How much one running answer delays every other piece on the same pod, as a
            share of that piece's time. Decode steps are batched: one more stream costs each of the
            others a percent or so (H200, Qwen3-VL-8B: 5.1 ms a step alone, 8.7 ms with 127
            others).
        kv_full_permille: Above this fill of the KV cache a new answer waits for one to end.
        max_considered: Pods compared for one stage; more are looked at in turns.
        ttft_ms: The SLO's, less what is spent outside pods. Encode or prefill that no pod of the
            role is predicted to end by then goes to one of another role that is; infinite: never.
        tpot_ms: The SLO's. Nothing overflows where more answers than `overflow_price` would be
            expected to miss it for that; infinite: answers do not mind.
        overflow_price: See there; what overflows saves one request.
    """

    encode_ms: float = 20.0
    prefill_ms: float = 30.0
    decode_ms: float = 1000.0
    ec_handoff_ms: float = 2.0
    kv_handoff_ms: float = 5.0
    encode_share: float = 0.5
    prefill_share: float = 0.5
    decode_share: float = 0.01
    kv_full_permille: int = 950
    max_considered: int = 64
    ttft_ms: float = inf
    tpot_ms: float = inf
    overflow_price: float = 0.1


def service_ms(pod: PodView, stage: Stage, costs: Costs) -> float:
    """Return the mean time of one piece of `stage` on `pod`, or the default while unknown."""
    known = pod.loads[stage].service_ms
    if known:
        return known
    if stage is _ENCODE:
        return costs.encode_ms
    return costs.prefill_ms if stage is _PREFILL else costs.decode_ms


def answers_lost(pod: PodView, work_ms: float, costs: Costs) -> float:
    """Return how many answers on a pod are expected to miss the TPOT if it gets work besides.

    Other stages hold up every answer for as long as they run. One of n tokens can afford n times
    what a token takes less than the TPOT. Lengths are taken as geometric; those that run are longer
    than the mean, for long answers run longer (Gamma of order 2).
    """
    answers = pod.loads[_DECODE]
    if not answers.outstanding or costs.tpot_ms == inf:
        return 0.0
    spare_ms = answers.tokens * costs.tpot_ms - answers.service_ms
    if spare_ms <= 0:  # unknown, or missed as it is
        return float(answers.outstanding)
    for stage in (_ENCODE, _PREFILL):
        work_ms += pod.loads[stage].outstanding * service_ms(pod, stage, costs)
    ratio = work_ms / spare_ms
    return answers.outstanding * (1.0 - exp(-ratio) * (1.0 + ratio))


def answer_waits_ms(pods: Sequence[PodView], costs: Costs) -> list[float]:
    """Return how long the next answer would be held up on each pod.

    It is as long on one as on another, so pods differ by their time per token alone: one that
    decoded when answers were short is not quick for that, nor is one that never decoded.
    """
    known = [load for pod in pods if (load := pod.loads[_DECODE]).tokens]
    tokens = sum(load.tokens for load in known) / max(1, len(known))
    usual_ms = sum(load.service_ms for load in known) / max(1, len(known))
    waits_ms = []
    for pod in pods:
        load = pod.loads[_DECODE]
        answer_ms = tokens * load.service_ms / load.tokens if load.tokens else load.service_ms
        waits_ms.append(wait_ms(pod, _DECODE, costs, answer_ms or usual_ms))
    return waits_ms


def wait_ms(pod: PodView, stage: Stage, costs: Costs, answer_ms: float = 0.0) -> float:
    """Return how long a new piece of `stage` would be held up on `pod`.

    Args:
        pod: Which pod.
        stage: Of the piece.
        costs: The constants.
        answer_ms: How long an answer takes there; 0: as long as its last ones did.
    """
    loads = pod.loads
    wait = 0.0
    load = loads[_ENCODE]
    if load.outstanding:
        share = 1.0 if stage is _ENCODE else costs.encode_share
        wait += share * load.outstanding * (load.service_ms or costs.encode_ms)
    load = loads[_PREFILL]
    if load.outstanding:
        share = 1.0 if stage is _PREFILL else costs.prefill_share
        wait += share * load.outstanding * (load.service_ms or costs.prefill_ms)
    load = loads[_DECODE]
    if load.outstanding:
        answer_ms = answer_ms or load.service_ms or costs.decode_ms
        held_up_ms = answer_ms if stage is _DECODE else service_ms(pod, stage, costs)
        wait += costs.decode_share * load.outstanding * held_up_ms
        if stage is _DECODE and (load.waiting or pod.kv_used_permille > costs.kv_full_permille):
            wait += (load.waiting + 1) * answer_ms / max(1, load.outstanding - load.waiting)
    return wait


def _salt(name: str) -> int:
    """Return a number that depends on nothing but the name (Python's own hash is salted)."""
    value = _FNV_OFFSET
    for byte in name.encode():
        value = ((value ^ byte) * _FNV_PRIME) & _MASK_64
    return value
