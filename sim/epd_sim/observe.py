"""What a control loop sees of the simulated world: windows over arrivals, queues, finished answers.

The production loop reads the same from Prometheus. Here the window is exact, which is the
simulator's one favour to whoever controls; delays and gaps in it are faults that a test may add.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from epd.policy.control_view import Slo as PolicySlo
from epd.policy.control_view import StageDemand
from epd.policy.curves import CostCurves, RequestShape
from epd.policy.method import sustainable_utilisation
from epd.vocabulary import Stage
from epd_sim.pod import Pod
from epd_sim.results import Slo, Tpot
from epd_sim.workload import Request, Shape
from epd_sim.world import World

_PERCENTILE_OF_ANSWERS: Final = 0.9


def policy_slo(slo: Slo) -> PolicySlo:
    """Return an SLO as the production policy writes it."""
    return PolicySlo(slo.ttft_ms, slo.tpot_ms, slo.attainment)


def mean_shape(shapes: Iterable[Shape]) -> RequestShape:
    """Return the mean request; all zero for none."""
    known = list(shapes)
    if not known:
        return RequestShape()
    count = len(known)
    images = sum(len(shape.image_tokens) for shape in known)
    image_tokens = sum(sum(shape.image_tokens) for shape in known)
    return RequestShape(
        images=images / count,
        image_tokens=image_tokens / images if images else 0.0,
        prompt_tokens=sum(shape.prompt_tokens for shape in known) / count,
        output_tokens=sum(shape.output_tokens for shape in known) / count,
        seen_tokens=seen_tokens(known),
    )


def seen_tokens(shapes: Sequence[Shape]) -> float:
    """Return the context that decode steps see: that of long answers weighs more."""
    steps = sum(shape.output_tokens - 1 for shape in shapes)
    seen = sum(_context(shape) * (shape.output_tokens - 1) for shape in shapes)
    return seen / steps if steps else 1.0


class Work:
    """How long requests keep pods busy, stage by stage, by the production cost curves.

    Decode counts a request's share of steps batched as far as the SLO's TPOT allows, and reading
    its own context. The batch is that of the context which decode steps see: long answers weigh
    more than short ones. (The mean request's context would count the long prompts of short answers,
    and overrate decode by half where prompts and answers are of opposite length.)
    """

    def __init__(
        self,
        curves: CostCurves,
        slo: Slo,
        shapes: Sequence[Shape],
        known: dict[Shape, tuple[float, float]] | None = None,
    ) -> None:
        """Price requests; `known` keeps what encode and prefill of a shape cost for the next."""
        self._curves = curves
        self._known = {} if known is None else known
        mean = RequestShape(seen_tokens=seen_tokens(shapes))
        batch = curves.decode_batch(mean, slo.tpot_ms)
        self._token_ms = curves.decode_ms.at(batch) / batch

    def of(self, shape: Shape) -> dict[Stage, float]:
        """Return milliseconds of a pod by stage."""
        curves = self._curves
        token_ms = self._token_ms + curves.decode_token_ms * _context(shape)
        before_token = self._known.get(shape)
        if before_token is None:
            encode_ms = sum(curves.encode(1, tokens) for tokens in shape.image_tokens)
            before_token = self._known[shape] = (encode_ms, curves.prefill(shape.prompt_tokens))
        encode_ms, prefill_ms = before_token
        return {
            Stage.ENCODE: encode_ms,
            Stage.PREFILL: prefill_ms,
            Stage.DECODE: token_ms * (shape.output_tokens - 1),
        }


def _context(shape: Shape) -> float:
    """Return the context of a request half way through its answer."""
    return shape.prompt_tokens + shape.output_tokens / 2


def offered_pods(
    requests: Iterable[Request],
    seconds: float,
    curves: CostCurves,
    slo: Slo,
    known: dict[Shape, tuple[float, float]] | None = None,
) -> dict[Stage, float]:
    """Return the demand of requests that came within so many seconds, in pods by stage."""
    shapes = [request.shape for request in requests]
    work = Work(curves, slo, shapes, known)
    total = dict.fromkeys(Stage, 0.0)
    for shape in shapes:
        for stage, ms in work.of(shape).items():
            total[stage] += ms
    return {stage: ms / 1e3 / seconds for stage, ms in total.items()}


class Observer:
    """Looks at a world every few seconds."""

    def __init__(self, world: World, curves: CostCurves, slo: Slo, window_s: float) -> None:
        self._world = world
        self._curves = curves
        self._slo = slo
        self._window_s = window_s
        self._first = 0
        self._ended = 0
        self._known: dict[Shape, tuple[float, float]] = {}

    def demand(self) -> Mapping[Stage, StageDemand]:
        """Return the demand of each stage over the window; offline work takes what is left."""
        now_s, calls = self._world.clock.now_s, self._world.calls
        while (
            self._first < len(calls)
            and calls[self._first].request.arrival_s < now_s - self._window_s
        ):
            self._first += 1
        recent = [call.request for call in calls[self._first :] if call.request.shape.online]
        seconds = min(self._window_s, max(now_s, 1e-3))
        offered = offered_pods(recent, seconds, self._curves, self._slo, self._known)
        return {stage: self._stage(stage, offered[stage], recent, seconds) for stage in Stage}

    def tpot_ms(self) -> float | None:
        """Return the TPOT that the SLO's share of answers met since the last look."""
        ended = self._world.ended[self._ended :]
        self._ended = len(self._world.ended)
        mean = self._slo.tpot is Tpot.MEAN
        tpots = sorted(call.tpot_mean_ms if mean else call.tpot_p90_ms for call in ended)
        return tpots[int(_PERCENTILE_OF_ANSWERS * (len(tpots) - 1))] if tpots else None

    def _stage(
        self, stage: Stage, offered: float, recent: list[Request], seconds: float
    ) -> StageDemand:
        pods = [p for p in self._world.pods if p.offered and stage in p.role.stages]
        pieces = sum(len(r.shape.image_tokens) if stage is Stage.ENCODE else 1 for r in recent)
        service_ms = offered * seconds * 1e3 / pieces if pieces else 0.0
        slack_ms = self._slo.ttft_ms / 2
        limit = 1.0
        if stage is not Stage.DECODE and service_ms:
            limit = sustainable_utilisation(
                service_ms, slack_ms, self._slo.attainment, max(1, len(pods))
            )
        queue_ms = self._queue_ms(stage, service_ms)
        return StageDemand(offered, limit, queue_ms / max(1, len(pods)), service_ms, pieces)

    def _queue_ms(self, stage: Stage, service_ms: float) -> float:
        """Return the work of a stage that waits, on all pods."""
        pods = [pod for pod in self._world.pods if pod.alive]
        return sum(waiting_ms(pod, stage, service_ms) for pod in pods)


def waiting_ms(pod: Pod, stage: Stage, service_ms: float) -> float:
    """Return the work of a stage that waits on a pod, in milliseconds."""
    if stage is Stage.DECODE:
        return 0.0
    return (pod.tallies[stage].in_flight - pod.tallies[stage].running) * service_ms
