"""Closed loops of `decide` and a fleet that obeys at once, for tests: no clock, no randomness."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from epd.policy.control import ControlMemory, decide
from epd.policy.control_view import ClusterView, Decision, Limits, PodState, StageDemand
from epd.policy.split import split, utilisation
from epd.vocabulary import Method, Role, Stage

Offered = Mapping[Stage, float]


def fleet(**pods: int) -> tuple[PodState, ...]:
    """Return pods by role: `fleet(prefill=2, encode_prefill=1)`."""
    return tuple(
        PodState(f"{name.replace('_', '-')}-{index}", Role(name.replace("_", "-")))
        for name, count in pods.items()
        for index in range(count)
    )


def counts_of(pods: tuple[PodState, ...]) -> dict[Role, int]:
    """Return ready pods by role."""
    counts: dict[Role, int] = {}
    for pod in pods:
        if pod.ready:
            counts[pod.role] = counts.get(pod.role, 0) + 1
    return counts


def demand(encode: float = 0.0, prefill: float = 0.0, decode: float = 0.0, **more: float):
    """Return what the stages offer, in pods; `more` goes to every stage."""
    offered = {Stage.ENCODE: encode, Stage.PREFILL: prefill, Stage.DECODE: decode}
    return {stage: StageDemand(pods, **more) for stage, pods in offered.items()}


def enacted(view: ClusterView, decision: Decision) -> tuple[PodState, ...]:
    """Return the pods after the decision's flips."""
    flips = {flip.pod: flip.to_role for flip in decision.flips}
    return tuple(
        replace(pod, role=flips[pod.name], flipped_at_s=view.now_s) if pod.name in flips else pod
        for pod in view.pods
    )


class World:
    """A fleet under control. Demand is a function of time, seen as its mean over a window.

    Attributes:
        flips: (time, from, to) of every flip so far.
        late_flips: Those of the second half of the run.
        mean_utilisation: Of the busiest role, over the second half.
        static_utilisation: The same for the best split of the mean demand, never changed.
    """

    def __init__(
        self,
        pods: tuple[PodState, ...],
        offered: Callable[[float], Offered],
        *,
        limits: Limits,
        interval_s: float = 5.0,
        window_s: float = 0.0,
        method: Method = Method.E_P_D,
    ) -> None:
        self.pods, self._offered, self._method = pods, offered, method
        self._limits, self._interval_s, self._window_s = limits, interval_s, window_s
        self.memory: ControlMemory | None = None
        self.flips: list[tuple[float, Role, Role]] = []
        self.views: list[ClusterView] = []

    def run(self, passes: int) -> None:
        """Make so many passes, from time 0."""
        spent: list[float] = []
        total: dict[Role, float] = {}
        busy: list[Mapping[Role, float]] = []
        for index in range(passes):
            self._pass(index * self._interval_s)
            if index < passes // 2:
                continue
            for part in range(10):
                at_s = (index + part / 10) * self._interval_s
                work = {Role(stage): pods for stage, pods in self._offered(at_s).items()}
                spent.append(utilisation(work, counts_of(self.pods)))
                busy.append(work)
                for role, pods in work.items():
                    total[role] = total.get(role, 0.0) + pods
        half_s = passes // 2 * self._interval_s
        self.late_flips = [flip for flip in self.flips if flip[0] >= half_s]
        self.mean_utilisation = sum(spent) / len(spent)
        best = split(len(self.pods), total, {})
        self.static_utilisation = sum(utilisation(work, best) for work in busy) / len(busy)

    def _pass(self, now_s: float) -> None:
        steps = 20 if self._window_s else 1
        seen = [self._offered(max(0.0, now_s - self._window_s * i / steps)) for i in range(steps)]
        view = ClusterView(
            now_s,
            self.pods,
            {stage: StageDemand(sum(s[stage] for s in seen) / steps) for stage in Stage},
            method=self._method,
            limits=self._limits,
            window_s=self._window_s,
        )
        decision, self.memory = decide(view, self.memory)
        self.views.append(view)
        self.pods = enacted(view, decision)
        self.flips += [(now_s, flip.from_role, flip.to_role) for flip in decision.flips]
