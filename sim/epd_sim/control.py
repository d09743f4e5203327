"""Controllers of the simulated world: who changes the split, how, and how often.

`ElasticControl` is the production policy (`epd.policy.control.decide`), called as the operator
calls it. The others are what it is compared with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from epd.policy.control import ControlMemory, decide
from epd.policy.control_view import Bounds, ClusterView, Decision, Limits, PodState
from epd.policy.curves import CostCurves
from epd.policy.split import split
from epd.vocabulary import Method, Role, Stage
from epd_sim.observe import Observer, offered_pods, policy_slo
from epd_sim.pod import Pod
from epd_sim.results import Slo
from epd_sim.workload import Workload
from epd_sim.world import World


@dataclass(frozen=True, slots=True)
class ElasticSettings:
    """How the production loop runs.

    Attributes:
        interval_s: Between two passes.
        window_s: Over which demand is measured.
        settle_s: How long a flip is in flight: until every gateway has seen the label.
        limits: The guards.
        bounds: Pods by role.
    """

    interval_s: float = 5.0
    window_s: float = 20.0
    settle_s: float = 0.3
    limits: Limits = field(default_factory=Limits)
    bounds: Mapping[Role, Bounds] = field(default_factory=dict)


class ElasticControl:
    """Our product: observe, decide, enact.

    Attributes:
        decisions: What was decided, and when.
    """

    def __init__(self, method: Method, slo: Slo, settings: ElasticSettings | None = None) -> None:
        self.decisions: list[tuple[float, Decision]] = []
        self._method = method
        self._slo = slo
        self._settings = settings or ElasticSettings()
        self._memory = ControlMemory()
        self._flipped_s: dict[int, float] = {}

    def bind(self, world: World) -> None:
        """Begin to look at the world."""
        self._world = world
        self._observer = Observer(world, world.costs.curves(), self._slo, self._settings.window_s)
        world.clock.after(self._settings.interval_s, self._pass)

    def _pass(self, _: object) -> None:
        world, settings = self._world, self._settings
        if world.is_over:
            return
        decision, self._memory = decide(self._view(), self._memory)
        self.decisions.append((world.clock.now_s, decision))
        pods = {pod.name: pod for pod in world.pods}
        for flip in decision.flips:
            self._flipped_s[pods[flip.pod].index] = world.clock.now_s
            world.flip(pods[flip.pod], flip.to_role)
        world.clock.after(settings.interval_s, self._pass)

    def _view(self) -> ClusterView:
        world, settings = self._world, self._settings
        demand = self._observer.demand()
        return ClusterView(
            now_s=world.clock.now_s,
            pods=tuple(self._state(pod) for pod in world.pods if pod.alive),
            demand=demand,
            method=self._method,
            slo=policy_slo(self._slo),
            bounds=settings.bounds,
            limits=settings.limits,
            tpot_ms=self._observer.tpot_ms(),
            window_s=settings.window_s,
        )

    def _state(self, pod: Pod) -> PodState:
        now_s, flipped_s = self._world.clock.now_s, self._flipped_s.get(pod.index)
        return PodState(
            name=pod.name,
            role=pod.role,
            ready=pod.offered,
            settled=flipped_s is None or now_s - flipped_s >= self._settings.settle_s,
            flipped_at_s=flipped_s,
            stranded_ms=stranded_ms(pod),
        )


def stranded_ms(pod: Pod) -> dict[Stage, float]:
    """Return the work on a pod by stage, by the mean time its pieces took so far."""
    work = {}
    for stage, tally in pod.tallies.items():
        mean_ms = tally.service_s / tally.finished * 1e3 if tally.finished else 1.0
        work[stage] = tally.in_flight * mean_ms
    return work


def move_to(world: World, pods: Sequence[Pod], target: Mapping[Role, int]) -> None:
    """Flip pods to a split, those with the least work first."""
    missing = [
        role
        for role, count in target.items()
        for _ in range(count - sum(pod.role is role for pod in pods))
    ]
    surplus = {role: sum(pod.role is role for pod in pods) - n for role, n in target.items()}
    for pod in sorted(pods, key=lambda pod: (sum(stranded_ms(pod).values()), pod.index)):
        if missing and surplus.get(pod.role, 1) > 0:
            surplus[pod.role] = surplus.get(pod.role, 1) - 1
            world.flip(pod, missing.pop(0))


def role_demand(method: Method, stages: Mapping[Stage, float]) -> dict[Role, float]:
    """Return the demand of each role of a method: the sum over its stages."""
    return {role: sum(stages[stage] for stage in role.stages) for role in method.roles}


class Clairvoyant:
    """Knows what comes: each window begins with the split that its own arrivals need.

    A bound to compare with. Flips cost it nothing, and gateways know of them at the next report.
    """

    def __init__(
        self, workload: Workload, method: Method, slo: Slo, window_s: float = 15.0
    ) -> None:
        self._workload = workload
        self._method = method
        self._slo = slo
        self._window_s = window_s
        self._next = 0

    def bind(self, world: World) -> None:
        """Set the split of the first window."""
        self._world = world
        world.clock.at(0.0, self._turn)

    def _turn(self, _: object) -> None:
        world = self._world
        end_s = world.clock.now_s + self._window_s
        first = self._next
        while self._next < len(self._workload) and self._workload[self._next].arrival_s < end_s:
            self._next += 1
        coming = self._workload[first : self._next]
        if coming:
            stages = offered_pods(coming, self._window_s, world.costs.curves(), self._slo)
            pods = [pod for pod in world.pods if pod.offered]
            move_to(world, pods, split(len(pods), role_demand(self._method, stages), {}))
        if self._next < len(self._workload):
            world.clock.after(self._window_s, self._turn)


_DRAIN_POLL_S: Final = 1.0


class Churn:
    """A planner that deletes and creates pods: what Kubernetes planners do today.

    It aims at the same split as ours, from the same demand. A pod of a role that has too many is
    drained, and once it is idle a pod of another role starts on its GPU.

    Attributes:
        interval_s: Between two looks.
        start_s: From creation to ready: image, weights, warm-up.
    """

    def __init__(
        self, method: Method, slo: Slo, interval_s: float, start_s: float, window_s: float = 60.0
    ) -> None:
        self.interval_s = interval_s
        self.start_s = start_s
        self._method = method
        self._slo = slo
        self._window_s = window_s
        self._coming: list[Role] = []

    def bind(self, world: World) -> None:
        """Begin to look at the world."""
        self._world = world
        self._observer = Observer(world, world.costs.curves(), self._slo, self._window_s)
        world.clock.after(self.interval_s, self._pass)

    def _pass(self, _: object) -> None:
        world = self._world
        if world.is_over:
            return
        stages = {stage: d.offered_pods for stage, d in self._observer.demand().items()}
        pods = [pod for pod in world.pods if pod.offered]
        fleet = len(pods) + len(self._coming)
        target = split(fleet, role_demand(self._method, stages), {})
        have = {
            role: sum(pod.role is role for pod in pods) + self._coming.count(role)
            for role in target
        }
        for role in target:
            while have[role] < target[role]:
                giver = max(have, key=lambda other: have[other] - target[other])
                spare = [pod for pod in pods if pod.role is giver and pod.offered]
                if len(spare) <= 1:
                    break
                pod = min(spare, key=lambda pod: sum(stranded_ms(pod).values()))
                have[giver] -= 1
                have[role] += 1
                world.drain(pod)
                self._coming.append(role)
                self._replace((pod, role))
        world.clock.after(self.interval_s, self._pass)

    def _replace(self, plan: tuple[Pod, Role]) -> None:
        pod, role = plan
        busy = any(tally.in_flight for tally in pod.tallies.values()) or pod.given
        if busy:
            self._world.clock.after(_DRAIN_POLL_S, self._replace, plan)
        else:
            self._world.clock.after(self.start_s, self._ready, role)

    def _ready(self, role: Role) -> None:
        self._coming.remove(role)
        self._world.add_pod(role)


def fluid_goodput(
    workload: Workload, curves: CostCurves, slo: Slo, pods: int, window_s: float = 15.0
) -> float:
    """Return requests per second that no split of so many pods can exceed, window by window.

    Work is fluid here: any pod does any share of any stage, nothing waits, nothing is handed off.
    """
    served = 0.0
    index = 0
    while index < len(workload):
        start_s = workload[index].arrival_s // window_s * window_s
        part = []
        while index < len(workload) and workload[index].arrival_s < start_s + window_s:
            part.append(workload[index])
            index += 1
        demand = sum(offered_pods(part, window_s, curves, slo).values())
        served += len(part) * min(1.0, pods / demand) if demand else len(part)
    return served / workload[-1].arrival_s if workload else 0.0
