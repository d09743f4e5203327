"""Which pods change role now: `decide`, a pure function of what was observed.

    demand of each role -> target split -> guards in order -> flips, with the reasons for all of it

Everything that matters is in the view: roles and flip times are labels and annotations of pods.
`ControlMemory` smooths; losing it (the operator restarts) only makes the next flip come later.
docs/adr/0010-control-algorithm.md derives the algorithm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from epd.policy.control_view import ClusterView, Decision, Reason, ReasonCode
from epd.policy.demand import needs_of, noise
from epd.policy.flips import Pass
from epd.policy.hysteresis import Hysteresis, Present
from epd.policy.split import fleet_pods, split
from epd.vocabulary import Stage

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
    present = Present(
        view.now_s,
        elapsed_s,
        view.window_s / 2,
        counts,
        target,
        needs.demand_pods,
        view.limits.deadband + noise(view, counts),
    )
    hysteresis = memory.hysteresis.after(present, view.limits, view.bounds)
    pass_ = Pass(view, ready, counts, target, needs, hysteresis)
    flips, hold = pass_.flips()
    rests = hold is not None and hold.code in (ReasonCode.BALANCED, ReasonCode.DEADBAND)
    decision = Decision(
        flips,
        counts if rests else target,
        hold,
        (*needs.reasons, pass_.aim(), *([hold] if hold else [])),
        fleet_pods(needs.lasting_pods, view.bounds),
        bool(needs.breached),
    )
    offered = {stage: demand.offered_pods for stage, demand in view.demand.items()}
    return decision, ControlMemory(view.now_s, hysteresis, offered, trend, tpot_since_s)


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
        for name in ("offered_pods", "max_utilisation", "queue_ms", "service_ms"):
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
