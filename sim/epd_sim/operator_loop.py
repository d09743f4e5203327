"""The operator's loop, unchanged, over simulated ports.

`epd_operator.control.loop` observes, decides, enacts and reports here (`Controller.run_once`) as on
Kubernetes: what it reads are rates over a window, mean requests and histograms, as Prometheus has
them. Its coroutines wait for nothing here, so that each pass is one call.
"""

from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from epd import telemetry
from epd.api.names import ControlMode
from epd.policy.control_view import Flip
from epd.vocabulary import Method, Stage
from epd_operator.control.loop import Controller, Memory
from epd_operator.control.ports import FleetPod, FlipRefused, MetricsUnavailable, Pass
from epd_operator.control.signals import Traffic
from epd_operator.control.translate import Aim
from epd_sim.control import ElasticSettings
from epd_sim.observe import policy_slo
from epd_sim.results import Slo, Tpot
from epd_sim.workload import Shape
from epd_sim.world import World

_LIMITS_MS: Final = tuple(5.0 * 1.25**i for i in range(40))
"""Limits of the histograms: finer than the exported ones, so that this adds no error of its own."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Counters:
    """What has happened up to a moment."""

    at_s: float
    started: dict[Stage, int]
    finished: dict[Stage, int]
    service_s: dict[Stage, float]
    tokens: dict[Stage, int]
    arrived: int
    ended: int
    images: int


class OperatorLoop:
    """Runs the operator's loop on a world; fleet, metrics and reporter in one.

    Attributes:
        passes: What each pass reported.
    """

    def __init__(self, method: Method, slo: Slo, settings: ElasticSettings | None = None) -> None:
        self.passes: list[Pass] = []
        self._slo = slo
        self._settings = settings or ElasticSettings()
        self._aim = Aim(policy_slo(slo), self._settings.limits, self._settings.bounds, method)
        self._memory = Memory()
        self._flipped_s: dict[int, float] = {}
        self._history: deque[_Counters] = deque()

    def bind(self, world: World) -> None:
        """Begin to look at the world."""
        self._world = world
        self._loop = Controller(
            fleet=self,
            metrics=self,
            reporter=self,
            clock=lambda: world.clock.now_s,
            aim=self._aim,
            mode=ControlMode.ACTIVE,
            curves=world.costs.curves(),
        )
        self._history.append(self._count(_NOTHING))
        world.clock.after(self._settings.interval_s, self._pass)

    async def read(self) -> Traffic:
        """Return the traffic of the window.

        Raises:
            MetricsUnavailable: The window is empty.
        """
        history, now_s = self._history, self._world.clock.now_s
        history.append(self._count(history[-1]))
        while len(history) > 2 and history[1].at_s <= now_s - self._settings.window_s:
            history.popleft()
        first, last = history[0], history[-1]
        seconds = last.at_s - first.at_s
        if seconds <= 0:
            raise MetricsUnavailable("the window is empty")
        pods = [pod for pod in self._world.pods if pod.alive]
        arrived = [call.request.shape for call in self._world.calls[first.arrived : last.arrived]]
        ended = self._world.ended[first.ended : last.ended]
        answered = [call.request.shape for call in ended]
        mean = self._slo.tpot is Tpot.MEAN
        return Traffic(
            window_s=seconds,
            age_s=0.0,
            workers=frozenset(pod.name for pod in pods),
            started={s: (last.started[s] - first.started[s]) / seconds for s in Stage},
            finished={s: (last.finished[s] - first.finished[s]) / seconds for s in Stage},
            service_s={s: (last.service_s[s] - first.service_s[s]) / seconds for s in Stage},
            tokens={s: (last.tokens[s] - first.tokens[s]) / seconds for s in Stage},
            waiting={
                (p.name, s): float(t.in_flight - t.running)
                for p in pods
                for s, t in p.tallies.items()
            },
            running={(p.name, s): float(t.running) for p in pods for s, t in p.tallies.items()},
            running_tokens=float(sum(pod.decoding_tokens for pod in pods)),
            images=(last.images - first.images) / seconds,
            accepted=_by_kind(((shape, 1) for shape in arrived), seconds),
            answered=_by_kind(((shape, 1) for shape in answered), seconds),
            output_tokens=_by_kind(((shape, shape.output_tokens) for shape in answered), seconds),
            ttft_ms=_histogram(
                (
                    (call.first_token_s - call.request.arrival_s) * 1e3
                    for call in ended
                    if call.first_token_s is not None
                ),
                seconds,
            ),
            tpot_ms=_histogram(
                (call.tpot_mean_ms if mean else call.tpot_p90_ms for call in ended), seconds
            ),
        )

    async def pods(self) -> Sequence[FleetPod]:
        """Return the pods as they are now."""
        now_s, settle_s = self._world.clock.now_s, self._settings.settle_s
        found = []
        for pod in self._world.pods:
            if pod.alive:
                at_s = self._flipped_s.get(pod.index)
                settled = at_s is None or now_s - at_s >= settle_s
                found.append(FleetPod(pod.name, pod.role, pod.offered, settled, at_s))
        return found

    async def flip(self, flip: Flip) -> None:
        """Change a pod's role, if it still has the one it had.

        Raises:
            FlipRefused: It has another, or is gone.
        """
        for pod in self._world.pods:
            if pod.name == flip.pod and pod.alive and pod.role is flip.from_role:
                self._flipped_s[pod.index] = self._world.clock.now_s
                self._world.flip(pod, flip.to_role)
                return
        raise FlipRefused("it has another role, or is gone")

    async def report(self, done: Pass) -> None:
        """Keep it."""
        self.passes.append(done)

    def _pass(self, _: object) -> None:
        if not self._world.is_over:
            self._memory = _at_once(self._loop.run_once(self._memory))
            self._world.clock.after(self._settings.interval_s, self._pass)

    def _count(self, before: _Counters) -> _Counters:
        """Return the counters now; those of calls go on from `before`."""
        world = self._world
        tallies = [pod.tallies for pod in world.pods]
        arrived = [call.request.shape for call in world.calls[before.arrived :]]
        return _Counters(
            at_s=world.clock.now_s,
            started={s: sum(t[s].started for t in tallies) for s in Stage},
            finished={s: sum(t[s].finished for t in tallies) for s in Stage},
            service_s={s: sum(t[s].service_s for t in tallies) for s in Stage},
            tokens={s: sum(t[s].tokens for t in tallies) for s in Stage},
            arrived=len(world.calls),
            ended=len(world.ended),
            images=before.images + sum(len(shape.image_tokens) for shape in arrived),
        )


_NOTHING: Final = _Counters(0.0, {}, {}, {}, {}, 0, 0, 0)


def _by_kind(counts: Iterable[tuple[Shape, int]], seconds: float) -> dict[str, float]:
    """Return rates by kind of request, as gateways count them: with images, or without."""
    rates = dict.fromkeys(telemetry.LABEL_VALUES["images"], 0.0)
    for shape, count in counts:
        rates["1+" if shape.image_tokens else "0"] += count / seconds
    return rates


def _histogram(values_ms: Iterable[float], seconds: float) -> list[tuple[float, float]]:
    """Return cumulative buckets: (limit, values a second up to it)."""
    known = sorted(values_ms)
    buckets = []
    index = 0
    for limit in _LIMITS_MS:
        while index < len(known) and known[index] <= limit:
            index += 1
        buckets.append((limit, index / seconds))
    return [*buckets, (float("inf"), len(known) / seconds)]


def _at_once(pass_: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine that waits for nothing; RuntimeError if it does."""
    try:
        pass_.send(None)
    except StopIteration as end:
        result: Value = end.value
        return result
    raise RuntimeError("the loop waited for something in simulated time")
