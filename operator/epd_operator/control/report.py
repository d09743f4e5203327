"""What a pass of the loop says in an `EPDCluster`'s status, and what is worth an Event. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from epd.api.names import ControlMode
from epd.policy.control_view import ReasonCode, Slo
from epd_operator.actions import Note
from epd_operator.conditions import ConditionType, Verdict
from epd_operator.control.ports import Pass
from epd_operator.control.signals import quantile
from epd_operator.objects import Manifest, timestamp

RESTS: Final = (ReasonCode.BALANCED, ReasonCode.DEADBAND)


def verdicts(done: Pass, slo: Slo) -> list[Verdict]:
    """Return the three conditions that are the loop's to judge."""
    return [_slo_met(done, slo), _balanced(done), _metrics_available(done)]


def last_decision(done: Pass, mode: ControlMode, now: datetime) -> Manifest:
    """Return `status.lastDecision`."""
    decision = done.decision
    flips = ", ".join(f"{f.pod} {f.from_role} to {f.to_role}" for f in decision.flips)
    did = "flipped" if done.enacted else "would flip" if mode is ControlMode.SHADOW else "flips"
    parts = [f"{did} {flips}"] if flips else []
    if done.problem:
        parts.append(done.problem)
    parts += [str(reason) for reason in decision.reasons]
    return {"time": timestamp(now), "reason": reason_of(done), "message": "; ".join(parts)[:4096]}


def reason_of(done: Pass) -> str:
    """Return the decision in one CamelCase word."""
    decision = done.decision
    if decision.hold is not None:
        return decision.hold.code.value
    return "Flipped" if done.enacted else "FlipWanted" if decision.flips else "Balanced"


def notes(done: Pass) -> Iterator[Note]:
    """Yield one note for each flip, with its reason."""
    why = "; ".join(
        str(reason)
        for reason in done.decision.reasons
        if reason.code is not ReasonCode.DEMAND or reason.numbers.get("demand_pods")
    )
    for flip in done.enacted:
        message = f"{flip.pod}: {flip.from_role} becomes {flip.to_role}: {why}"
        yield Note("Flipped", message, flip.pod)


def is_news(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether a decision says something else than its numbers."""
    return bool(before.get("reason") != after["reason"])


def _metrics_available(done: Pass) -> Verdict:
    kind, hold = ConditionType.METRICS_AVAILABLE, done.decision.hold
    if done.traffic is None:
        return Verdict(kind, False, "Unavailable", done.problem or "metrics cannot be read")
    if hold is not None and hold.code is ReasonCode.METRICS_STALE:
        return Verdict(kind, False, "Stale", f"metrics are not to be relied on ({hold.subject})")
    return Verdict(kind, True, "Fresh", "gateways and workers report")


def _balanced(done: Pass) -> Verdict:
    kind, hold = ConditionType.BALANCED, done.decision.hold
    wants = ", ".join(f"{role} {pods}" for role, pods in done.decision.desired.items())
    if hold is not None and hold.code in (ReasonCode.METRICS_STALE, ReasonCode.NO_PODS):
        return Verdict(kind, None, hold.code.value, "without metrics nobody can tell")
    if hold is not None and hold.code in RESTS:
        return Verdict(kind, True, hold.code.value, f"the split suits the traffic: {wants}")
    return Verdict(kind, False, reason_of(done), f"the traffic asks for {wants}")


def _slo_met(done: Pass, slo: Slo) -> Verdict:
    kind = ConditionType.SLO_MET
    ttft_ms = tpot_ms = None
    if done.traffic is not None:
        ttft_ms = quantile(done.traffic.ttft_ms, slo.attainment)
        tpot_ms = quantile(done.traffic.tpot_ms, slo.attainment)
    if ttft_ms is None:
        return Verdict(kind, None, "NoTraffic", "no streamed answer began lately")
    for name, limit_ms, found_ms in (
        ("TTFT", slo.ttft_ms, ttft_ms),
        ("TPOT", slo.tpot_ms, tpot_ms),
    ):
        if found_ms is not None and found_ms > limit_ms:
            rank = f"{slo.attainment:.0%} quantile"
            message = f"the {rank} of {name} is above the objective of {limit_ms:g} ms"
            return Verdict(kind, False, f"{name}Breached", message)
    return Verdict(kind, True, "Met", "TTFT and TPOT are within the objective")
