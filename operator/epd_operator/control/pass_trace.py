"""The spans of a pass of the control loop: one for the pass, one for each flip that it made."""

from time import time_ns

from epd.tracing import Tracing
from epd_operator.control.ports import Pass


def trace_pass(tracing: Tracing, cluster: str, began_ns: int, done: Pass) -> None:
    """Make the spans of a pass that began at `began_ns` (Unix time) and has just ended."""
    decision = done.decision
    span = tracing.begin(
        "control pass",
        start_ns=began_ns,
        attributes={
            "epd.cluster": cluster,
            "epd.hold": decision.hold.code.value if decision.hold else "",
            "epd.desired": ", ".join(f"{role} {n}" for role, n in decision.desired.items()),
            "epd.reasons": "; ".join(map(str, decision.reasons)),
            "epd.urgent": decision.urgent,
        },
    )
    for flip in done.enacted:
        attributes = {"epd.pod": flip.pod, "epd.from": flip.from_role, "epd.to": flip.to_role}
        tracing.begin("flip", span, attributes=attributes).end()
    if done.problem:
        span.fail(done.problem)
    span.end(time_ns())
