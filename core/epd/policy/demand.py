"""What each role is asked for, in pods' worth: lasting work, and what breaches of the SLO add."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Final

from epd.policy.control_view import ClusterView, Reason, ReasonCode, StageDemand
from epd.vocabulary import Role, Stage

# Work comes as requests of unequal size: the variance of their sum over a stretch is about twice
# that of their number (compound Poisson, coefficient of variation 1).
_VARIANCE_OF_ONE: Final = 2.0
_MAX_TPOT_EXCESS: Final = 2.0
_LEAST_UTILISATION: Final = 0.1  # an SLO that no pod can meet must not take the whole fleet


@dataclass(frozen=True, slots=True)
class Needs:
    """Demand by role in pods.

    Attributes:
        lasting_pods: Of the work that keeps arriving.
        demand_pods: With what breaches ask for besides, as far as pods are to spare.
        breached: Roles that breaches ask pods for.
        reasons: The numbers.
    """

    lasting_pods: Mapping[Role, float]
    demand_pods: Mapping[Role, float]
    breached: frozenset[Role]
    reasons: tuple[Reason, ...]


def needs_of(
    view: ClusterView,
    counts: Mapping[Role, int],
    fleet: int,
    trend: Mapping[Stage, float],
    tpot_since_s: float | None,
) -> Needs:
    """Return demand by role: lasting work first, then what predicted and measured breaches add.

    What a breach adds goes only as far as the lasting work of other roles leaves pods to spare:
    Arrow's overload rule, that nobody takes from decode while decode needs what it has.
    """
    ahead_s = view.limits.forecast_s
    lasting = {
        role: sum(
            _pods(view.demand[stage])
            + max(0.0, trend[stage]) * ahead_s / _utilisation(view.demand[stage])
            for stage in role.stages
        )
        for role in counts
    }
    extra, breaches = _breaches(view, counts, tpot_since_s)
    spare = max(0.0, fleet - sum(lasting.values()))
    share = min(1.0, spare / wanted) if (wanted := sum(extra.values())) else 0.0
    demand = {role: pods + share * extra.get(role, 0.0) for role, pods in lasting.items()}
    reasons = [
        Reason(
            ReasonCode.DEMAND,
            role,
            {"demand_pods": pods, "lasting_pods": lasting[role], "pods": counts[role]},
        )
        for role, pods in demand.items()
    ]
    return Needs(lasting, demand, frozenset(extra), (*reasons, *breaches))


def _breaches(
    view: ClusterView, counts: Mapping[Role, int], tpot_since_s: float | None
) -> tuple[dict[Role, float], list[Reason]]:
    """Return the pods that breaches of the SLO ask for besides, by role, and the reasons."""
    extra: dict[Role, float] = {}
    reasons = []
    slo = view.slo
    role_of = {stage: role for role in counts for stage in role.stages}
    before_token = {
        stage: view.demand[stage]
        for stage in (Stage.ENCODE, Stage.PREFILL)
        if view.demand[stage].offered_pods or view.demand[stage].queue_ms
    }
    queue_ms = {stage: demand.queue_ms for stage, demand in before_token.items()}
    ttft_ms = sum(queue_ms.values()) + sum(d.service_ms for d in before_token.values())
    if ttft_ms > slo.ttft_ms and any(queue_ms.values()):
        reasons.append(
            Reason(
                ReasonCode.TTFT_BREACH_PREDICTED,
                max(queue_ms, key=lambda stage: queue_ms[stage]),
                {"ttft_ms": ttft_ms, "slo_ms": slo.ttft_ms},
            )
        )
        for stage, waits_ms in queue_ms.items():
            if waits_ms:  # to serve what waits within one TTFT of the SLO
                role = role_of[stage]
                backlog_pods = max(1, counts[role]) * waits_ms / slo.ttft_ms
                extra[role] = extra.get(role, 0.0) + backlog_pods
    sustained_s = 0.0 if tpot_since_s is None else view.now_s - tpot_since_s
    if view.tpot_ms and sustained_s >= view.limits.cooldown_s > 0:
        reasons.append(
            Reason(
                ReasonCode.TPOT_BREACH_SUSTAINED,
                Stage.DECODE,
                {"tpot_ms": view.tpot_ms, "slo_ms": slo.tpot_ms, "sustained_s": sustained_s},
            )
        )
        role = role_of[Stage.DECODE]
        excess = min(_MAX_TPOT_EXCESS, view.tpot_ms / slo.tpot_ms) - 1
        extra[role] = extra.get(role, 0.0) + max(1, counts[role]) * excess
    return extra, reasons


def noise(view: ClusterView, counts: Mapping[Role, int]) -> float:
    """Return the largest standard error of a role's utilisation, from the sizes of the samples."""
    worst = 0.0
    for role, pods in counts.items():
        variance = sum(
            _VARIANCE_OF_ONE / max(1, demand.samples) * _pods(demand) ** 2
            for demand in (view.demand[stage] for stage in role.stages)
            if demand.samples is not None
        )
        worst = max(worst, sqrt(variance) / max(1, pods))
    return worst


def _pods(demand: StageDemand) -> float:
    return demand.offered_pods / _utilisation(demand)


def _utilisation(demand: StageDemand) -> float:
    return max(_LEAST_UTILISATION, demand.max_utilisation)
