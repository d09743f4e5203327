"""Which pods change role now: `decide`, a pure function of what was observed.

    demand of each role -> target split -> guards in order -> flips, with the reasons for all of it

Everything that matters is in the view: roles and flip times are labels and annotations of pods.
`ControlMemory` smooths; losing it (the operator restarts) only makes the next flip come later.
docs/adr/0010-control-algorithm.md derives the algorithm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from math import isfinite
from typing import Final

from epd.policy.control_view import (
    ClusterView,
    Decision,
    Flip,
    PodState,
    Reason,
    ReasonCode,
)
from epd.policy.demand import Needs, needs_of, noise
from epd.policy.hysteresis import Hysteresis
from epd.policy.split import fleet_pods, split, utilisation
from epd.vocabulary import Role, Stage

_CLOCK_SLACK_S: Final = 1.0
_TREND_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ControlMemory:
    """What `decide` hands to its next call; the default is a fresh start.

    Attributes:
        at_s: When the last pass with fresh metrics was; None: there was none.
        hysteresis: Regret and price.
        offered_pods: Demand by stage at that pass.
        trend: Its rise in pods per second, smoothed.
        tpot_breach_since_s: Since when the measured TPOT is above the SLO; None: it is not.
    """

    at_s: float | None = None
    hysteresis: Hysteresis = field(default_factory=Hysteresis)
    offered_pods: Mapping[Stage, float] = field(default_factory=dict)
    trend: Mapping[Stage, float] = field(default_factory=dict)
    tpot_breach_since_s: float | None = None


def decide(
    view: ClusterView, memory: ControlMemory | None = None
) -> tuple[Decision, ControlMemory]:
    """Return which pods to flip now, and what to hand in at the next call.

    Args:
        view: The cluster as observed.
        memory: What the last call returned; None at the first.
    """
    memory = memory or ControlMemory()
    ready = [pod for pod in view.pods if pod.ready]
    counts = dict.fromkeys(view.method.roles, 0)
    for pod in ready:
        if pod.role in counts:
            counts[pod.role] += 1
    if not ready:
        return Decision((), counts, Reason(ReasonCode.NO_PODS)), memory
    if stale := _stale(view):
        return Decision((), counts, stale, (stale,)), memory
    elapsed_s = _elapsed_s(view, memory)
    trend = _trend(view, memory, elapsed_s)
    tpot_since_s = _tpot_breach_since_s(view, memory)
    needs = needs_of(view, counts, len(ready), trend, tpot_since_s)
    target = split(len(ready), needs.demand_pods, view.bounds)
    limits = view.limits
    hysteresis = memory.hysteresis.after(
        counts,
        target,
        needs.demand_pods,
        elapsed_s,
        limits.deadband + noise(view, needs.demand_pods, counts),
        # What the least gain worth a flip adds up to in a cooldown: a flip lasts that long at
        # least, so this is about what a mistaken one costs.
        limits.deadband * limits.cooldown_s,
    )
    flips, hold = _flips(view, ready, counts, target, needs, hysteresis)
    rests = hold is not None and hold.code in (ReasonCode.BALANCED, ReasonCode.DEADBAND)
    decision = Decision(
        flips,
        counts if rests else target,
        hold,
        (*needs.reasons, *([hold] if hold else [])),
        fleet_pods(needs.lasting_pods, view.bounds),
        bool(needs.breached),
    )
    offered = {stage: demand.offered_pods for stage, demand in view.demand.items()}
    return decision, ControlMemory(view.now_s, hysteresis, offered, trend, tpot_since_s)


def _flips(
    view: ClusterView,
    ready: list[PodState],
    counts: Mapping[Role, int],
    target: Mapping[Role, int],
    needs: Needs,
    hysteresis: Hysteresis,
) -> tuple[tuple[Flip, ...], Reason | None]:
    """Return the flips of this pass, or which guard holds them."""
    limits, now_s = view.limits, view.now_s
    strangers = [pod for pod in ready if pod.role not in counts]
    if counts == target and not strangers:
        return (), _at_target(view, counts, needs, len(ready))
    in_flight = sum(not pod.settled for pod in ready)
    slots = limits.max_concurrent_flips - in_flight
    if slots <= 0:
        return (), Reason(ReasonCode.FLIP_IN_FLIGHT, "", {"in_flight": in_flight})
    dwell_s = limits.cooldown_s * hysteresis.price
    givers: dict[Role, list[PodState]] = {}
    gained: set[Role] = set()
    for pod in ready:
        since_s = float("inf") if pod.flipped_at_s is None else abs(now_s - pod.flipped_at_s)
        if since_s >= limits.cooldown_s:
            givers.setdefault(pod.role, []).append(pod)
        if since_s < dwell_s:
            gained.add(pod.role)
    spare = {
        role: min(len(pods), counts[role] - target[role] if role in counts else len(pods))
        for role, pods in givers.items()
        if role not in counts or (role not in gained and counts[role] > target[role])
    }
    if not any(spare.values()):
        return (), Reason(ReasonCode.COOLDOWN, "", {"cooldown_s": dwell_s})
    if limits.max_flips_per_cooldown is not None:
        recent = sum(
            pod.flipped_at_s is not None and abs(now_s - pod.flipped_at_s) < limits.cooldown_s
            for pod in view.pods
        )
        slots = min(slots, limits.max_flips_per_cooldown - recent)
        if slots <= 0:
            return (), Reason(ReasonCode.BUDGET_SPENT, "", {"recent": recent})
    ripe = limits.deadband * limits.cooldown_s * hysteresis.price
    short = {
        role: target[role] - counts[role]
        for role in counts
        if target[role] > counts[role]
        and (
            role in needs.breached or not counts[role] or hysteresis.pressure.get(role, 0.0) >= ripe
        )
    }
    moves = _moves(slots, counts, needs.demand_pods, spare, short)
    if not moves:
        return (), Reason(ReasonCode.DEADBAND, "", {"ripe": ripe})
    return _pods_for(moves, givers), None


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


def _at_target(view: ClusterView, counts: Mapping[Role, int], needs: Needs, fleet: int) -> Reason:
    """Say why today's split is the target: it is the best there is, or the bounds forbid better."""
    busy = utilisation(needs.demand_pods, counts)
    if busy > 1 or needs.breached:
        free = split(fleet, needs.demand_pods, {})
        if utilisation(needs.demand_pods, free) < busy - view.limits.deadband:
            return Reason(ReasonCode.MINIMUM, "", {"utilisation": busy})
    return Reason(ReasonCode.BALANCED, "", {"utilisation": busy})


def _stale(view: ClusterView) -> Reason | None:
    """Return why the metrics are not to be acted on; None: they are good."""
    limits = view.limits
    if not view.reporting_share >= limits.min_reporting_share:
        return Reason(ReasonCode.METRICS_STALE, "pods", {"reporting_share": view.reporting_share})
    if view.tpot_ms is not None and not (isfinite(view.tpot_ms) and view.tpot_ms >= 0):
        return Reason(ReasonCode.METRICS_STALE, "tpot", {"tpot_ms": view.tpot_ms})
    for stage in Stage:
        demand = view.demand.get(stage)
        if demand is None:
            return Reason(ReasonCode.METRICS_STALE, stage)
        if not -_CLOCK_SLACK_S <= demand.age_s <= limits.max_age_s:
            return Reason(ReasonCode.METRICS_STALE, stage, {"age_s": demand.age_s})
        for name in ("offered_pods", "queue_ms", "service_ms"):
            value = getattr(demand, name)
            if not (isfinite(value) and value >= 0):
                return Reason(ReasonCode.METRICS_STALE, stage, {name: value})
    return None


def _trend(view: ClusterView, memory: ControlMemory, elapsed_s: float) -> dict[Stage, float]:
    """Return the smoothed rise of each stage's demand, in pods per second."""
    weight = min(1.0, elapsed_s / _TREND_S)
    trend = {}
    for stage, demand in view.demand.items():
        rise, before = memory.trend.get(stage, 0.0), memory.offered_pods.get(stage)
        if before is not None and elapsed_s > 0:
            rise += weight * ((demand.offered_pods - before) / elapsed_s - rise)
        trend[stage] = rise
    return trend


def _tpot_breach_since_s(view: ClusterView, memory: ControlMemory) -> float | None:
    if view.tpot_ms is None or view.tpot_ms <= view.slo.tpot_ms:
        return None
    return view.now_s if memory.tpot_breach_since_s is None else memory.tpot_breach_since_s


def _elapsed_s(view: ClusterView, memory: ControlMemory) -> float:
    """Return the time since the last pass; a long silence counts as one cooldown at most."""
    if memory.at_s is None:
        return 0.0
    return max(0.0, min(view.now_s - memory.at_s, view.limits.cooldown_s))
