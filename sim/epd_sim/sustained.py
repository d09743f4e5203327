"""The highest rate that a policy, or the best fixed split, sustains within an SLO.

A trial asks only whether the SLO's share of requests is good, and ends once that is certain: an
overloaded run has missed its tenth long before its last answer.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Final

from epd.vocabulary import Method, Role
from epd_sim.calls import Call
from epd_sim.policies import POLICIES, Plan, Setup, mean_split, placer_for, serve
from epd_sim.results import Slo, Tpot
from epd_sim.workload import Workload
from epd_sim.world import Controls, World

MakeWorkload = Callable[[float], Workload]
"""Returns a workload of so many requests a second."""

_LOOK_S: Final = 1.0


class Trial:
    """Counts good and missed requests beside a controller, and stops the world when that will do.

    Attributes:
        good: Requests that are known to have met the SLO.
        missed: Requests that are known to have missed it.
    """

    def __init__(self, slo: Slo, requests: int, control: Controls | None) -> None:
        self.good = 0
        self.missed = 0
        self._slo = slo
        self._requests = requests
        self._control = control
        self._due = 0  # calls before this one have had their TTFT
        self._ended = 0

    def bind(self, world: World) -> None:
        """Bind the controller, and begin to look."""
        self._world = world
        if self._control is not None:
            self._control.bind(world)
        world.clock.after(_LOOK_S, self._look)

    @property
    def holds(self) -> bool:
        """Whether enough requests are known to be good."""
        return self.good >= self._slo.attainment * self._requests

    def count(self) -> None:
        """Take note of what has been decided since the last look."""
        world, slo = self._world, self._slo
        mean = slo.tpot is Tpot.MEAN
        for call in world.ended[self._ended :]:
            tpot_ms = call.tpot_mean_ms if mean else call.tpot_p90_ms
            if self._in_time(call):
                self.good += tpot_ms <= slo.tpot_ms
                self.missed += tpot_ms > slo.tpot_ms
        self._ended = len(world.ended)
        overdue_s = world.clock.now_s - slo.ttft_ms / 1e3
        while self._due < len(world.calls):
            call = world.calls[self._due]
            if call.request.arrival_s >= overdue_s:
                break
            self.missed += not self._in_time(call)
            self._due += 1

    def _in_time(self, call: Call) -> bool:
        """Say whether the first token came within the TTFT."""
        first_s = call.first_token_s
        return first_s is not None and (first_s - call.request.arrival_s) * 1e3 <= self._slo.ttft_ms

    def _look(self, _: object) -> None:
        self.count()
        if self.holds or self.missed > (1 - self._slo.attainment) * self._requests:
            self._world.stop()
        self._world.clock.after(_LOOK_S, self._look)


def meets_slo(setup: Setup, plan: Plan, workload: Workload) -> bool:
    """Say whether a plan meets the SLO on a workload."""
    counts, placer, control = plan
    trial = Trial(setup.slo, len(workload), control)
    serve(setup, "trial", workload, (counts, placer, trial))
    trial.count()
    return trial.holds


def highest(holds: Callable[[float], bool], low: float, high: float, within: float) -> float:
    """Return the highest rate that holds, between one that does and one that does not."""
    while high - low > within:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def sustained_rate(
    setup: Setup, policy: str, make: MakeWorkload, low: float, high: float, steps: int = 5
) -> float:
    """Return the highest rate at which attainment holds, between two rates, by bisection.

    Args:
        setup: The cluster and its SLO.
        policy: By name.
        make: Draws the workload; equal seeds for all rates.
        low: A rate to begin with; returned as 0 where it is too much already.
        high: The most to look at.
        steps: Runs besides that of `low`; each halves what is unknown.
    """

    def holds(rate: float) -> bool:
        workload = make(rate)
        return meets_slo(setup, POLICIES[policy].plan(setup, workload), workload)

    return highest(holds, low, high, (high - low) / 2**steps) if holds(low) else 0.0


def splits(method: Method, pods: int) -> Iterator[dict[Role, int]]:
    """Yield every split of so many pods that leaves no role of a method empty."""
    roles = method.roles
    for counts in product(range(1, pods + 1), repeat=len(roles)):
        if sum(counts) == pods:
            yield dict(zip(roles, counts, strict=True))


def best_static(
    setup: Setup, make: MakeWorkload, low: float, high: float, steps: int = 5
) -> tuple[dict[Role, int], float]:
    """Return the fixed split that sustains most, of all there are, and its rate.

    Begins with the split of the mean demand; another one is bisected only where it holds one step
    more than the best so far. Arguments as of `sustained_rate`.
    """
    within = (high - low) / 2**steps

    def holds(counts: Mapping[Role, int], rate: float) -> bool:
        return meets_slo(setup, (counts, placer_for(setup.slo), None), make(rate))

    def sustained(counts: Mapping[Role, int], known: float) -> float:
        return highest(lambda rate: holds(counts, rate), known, high, within)

    best = mean_split(setup, make(high))
    rate = sustained(best, low) if holds(best, low) else 0.0
    for counts in splits(setup.method, setup.pods):
        step = rate + within if rate else low
        if counts != best and step < high and holds(counts, step):
            best, rate = counts, sustained(counts, step)
    return best, rate
