"""Which pods change role in one pass: the guards, in order, and the choice of pods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from math import inf
from typing import Final

from epd.policy.control_view import Bounds, ClusterView, Flip, PodState, Reason, ReasonCode
from epd.policy.demand import Needs
from epd.policy.hysteresis import Hysteresis
from epd.policy.split import split, utilisation
from epd.vocabulary import Role, Stage

_ANY: Final = Bounds()
_CAUTIOUS_PRICE: Final = 2.0  # from here on, one flip at a time


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: from today's split towards the target, as far as the guards allow."""

    view: ClusterView
    ready: Sequence[PodState]
    counts: Mapping[Role, int]
    target: Mapping[Role, int]
    needs: Needs
    hysteresis: Hysteresis

    def flips(self) -> tuple[tuple[Flip, ...], Reason | None]:
        """Return the flips of this pass, or which guard holds them."""
        limits = self.view.limits
        if self.counts == self.target and not self._strangers():
            return (), self._at_target()
        in_flight = sum(not pod.settled for pod in self.ready)
        slots = limits.max_concurrent_flips - in_flight
        if slots <= 0:
            return (), Reason(ReasonCode.FLIP_IN_FLIGHT, "", {"in_flight": in_flight})
        floors = self._floors()
        givers = self._givers(floors)
        if not givers:
            if not self._strangers() and all(
                self.counts[role] <= pods for role, pods in floors.items()
            ):
                return (), Reason(ReasonCode.MINIMUM)
            return (), Reason(ReasonCode.COOLDOWN, "", {"cooldown_s": self._dwell_s()})
        if limits.max_flips_per_cooldown is not None:
            recent = sum(self._since_flip_s(pod) < limits.cooldown_s for pod in self.view.pods)
            slots = min(slots, limits.max_flips_per_cooldown - recent)
            if slots <= 0:
                return (), Reason(ReasonCode.BUDGET_SPENT, "", {"recent_flips": recent})
        receivers, pressure = self._receivers()
        if not receivers:
            numbers = {"pressure": pressure, "price": self.hysteresis.price}
            return (), Reason(ReasonCode.DEADBAND, "", numbers)
        if self.hysteresis.price >= _CAUTIOUS_PRICE:
            slots = 1
        spare = {
            role: min(len(pods), self.counts.get(role, len(pods)) - floors.get(role, 0))
            for role, pods in givers.items()
        }
        moves = _moves(slots, self.counts, self.needs.demand_pods, spare, receivers)
        return _pods_for(moves, givers), None

    def aim(self) -> Reason:
        """Return what the target is about, with the utilisation it would bring."""
        demand, bounds = self.needs.demand_pods, self.view.bounds
        numbers = {
            "utilisation": utilisation(demand, self.counts),
            "target_utilisation": utilisation(demand, self.target),
        }
        if self._strangers():
            return Reason(ReasonCode.METHOD_CHANGED, self.view.method, numbers)
        for role, pods in self.counts.items():
            if pods < min(self.target[role], bounds.get(role, _ANY).min_pods):
                return Reason(ReasonCode.BELOW_MINIMUM, role, numbers)
        return Reason(ReasonCode.BEST_SPLIT, self.view.method, numbers)

    def _at_target(self) -> Reason:
        """Say why today's split is the target: the best there is, or the bounds forbid better."""
        demand = self.needs.demand_pods
        busy = utilisation(demand, self.counts)
        if busy > 1 and self.view.bounds:
            free = utilisation(demand, split(len(self.ready), demand, {}))
            if free < busy - self.view.limits.deadband:
                return Reason(ReasonCode.MINIMUM, "", {"unbounded_utilisation": free})
        return Reason(ReasonCode.BALANCED, "", {"utilisation": busy})

    def _strangers(self) -> bool:
        return sum(self.counts.values()) < len(self.ready)

    def _since_flip_s(self, pod: PodState) -> float:
        """Return the time since a pod was flipped; a clock that ran ahead counts all the same."""
        flipped_at_s = pod.flipped_at_s
        return inf if flipped_at_s is None else abs(self.view.now_s - flipped_at_s)

    def _dwell_s(self) -> float:
        return self.view.limits.cooldown_s * self.hysteresis.price

    def _floors(self) -> dict[Role, int]:
        """Return how many pods each role keeps: its target, and never less than its minimum."""
        bounds = self.view.bounds
        return {
            role: max(pods, bounds.get(role, _ANY).min_pods) for role, pods in self.target.items()
        }

    def _givers(self, floors: Mapping[Role, int]) -> dict[Role, list[PodState]]:
        """Return the pods that may be flipped, by role.

        While pods have roles that the method does not deal out, only these. A role that gained a
        pod lately gives none.
        """
        strangers = self._strangers()
        cooldown_s, dwell_s = self.view.limits.cooldown_s, self._dwell_s()
        givers: dict[Role, list[PodState]] = {}
        gained: set[Role] = set()
        for pod in self.ready:
            role = pod.role
            if strangers == (role in self.counts):
                continue
            if not strangers and self.counts[role] <= floors[role]:
                continue
            since_s = self._since_flip_s(pod)
            if since_s >= cooldown_s:
                givers.setdefault(role, []).append(pod)
            if since_s < dwell_s and not strangers:
                gained.add(role)
        return {role: pods for role, pods in givers.items() if role not in gained}

    def _receivers(self) -> tuple[dict[Role, int], float]:
        """Return the roles that are to get pods, how many, and the highest pressure of any."""
        ripe = self.view.limits.ripe_pressure * self.hysteresis.price
        short = {
            role: self.target[role] - pods
            for role, pods in self.counts.items()
            if self.target[role] > pods
        }
        pressure = {role: self.hysteresis.pressure.get(role, 0.0) for role in short}
        due = {
            role: missing
            for role, missing in short.items()
            if pressure[role] >= ripe
            or role in self.needs.breached
            or self.counts[role] < self.view.bounds.get(role, _ANY).min_pods
            or self._strangers()
        }
        return due, max(pressure.values(), default=0.0)


def _moves(
    slots: int,
    counts: Mapping[Role, int],
    demand_pods: Mapping[Role, float],
    spare: Mapping[Role, int],
    short: Mapping[Role, int],
) -> dict[tuple[Role, Role], int]:
    """Return how many pods go from which role to which: to the busiest, from the idlest.

    Pods of roles that the method does not deal out go first.
    """
    now, left, missing = dict(counts), dict(spare), dict(short)
    moves: dict[tuple[Role, Role], int] = {}
    for _ in range(slots):
        receivers = [role for role in missing if missing[role]]
        donors = [role for role in left if left[role]]
        if not receivers or not donors:
            break
        receiver = max(receivers, key=lambda role: _busy(demand_pods[role], now[role]))
        donor = min(
            donors,
            key=lambda role: _busy(demand_pods[role], now[role] - 1) if role in now else -1.0,
        )
        moves[donor, receiver] = moves.get((donor, receiver), 0) + 1
        missing[receiver] -= 1
        left[donor] -= 1
        now[receiver] += 1
        if donor in now:
            now[donor] -= 1
    return moves


def _busy(demand_pods: float, pods: int) -> float:
    if demand_pods <= 0:
        return 0.0
    return demand_pods / pods if pods else float("inf")


def _pods_for(
    moves: Mapping[tuple[Role, Role], int], givers: Mapping[Role, list[PodState]]
) -> tuple[Flip, ...]:
    """Return the pods to flip: least work of the stages that they lose, most of those they gain."""
    flips: list[Flip] = []
    taken: set[str] = set()
    for (donor, receiver), count in moves.items():
        lost, won = donor.stages - receiver.stages, receiver.stages - donor.stages

        def cost(
            pod: PodState, lost: frozenset[Stage] = lost, won: frozenset[Stage] = won
        ) -> tuple[float, float, str]:
            work = pod.stranded_ms
            return (
                sum(work.get(stage, 0.0) for stage in lost),
                -sum(work.get(stage, 0.0) for stage in won),
                pod.name,
            )

        free = (pod for pod in givers[donor] if pod.name not in taken)
        for pod in nsmallest(count, free, key=cost):
            taken.add(pod.name)
            flips.append(Flip(pod.name, donor, receiver))
    return tuple(flips)
