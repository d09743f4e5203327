"""Which pod served which stage of a request: what the gateway remembers of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from epd.vocabulary import Stage
from epd_operator import local_probe


@dataclass(frozen=True, slots=True)
class StageCall:
    """One stage of a request on one pod, as the gateway saw it.

    Attributes:
        stage: What was done.
        pod: Where.
        took_ms: From the gateway's call to its end; None while it lasts.
        failure: Why it failed; empty if it did not.
    """

    stage: Stage
    pod: str
    took_ms: float | None
    failure: str = ""


async def timeline_of(admin_url: str, identifier: str) -> list[StageCall]:
    """Return the calls of a request in order; nothing if the gateway has forgotten it."""
    answer = await local_probe.get_json(f"{admin_url}/requests/{identifier}")
    if answer is None or answer[0] != 200:
        return []
    return [call_of(entry) for entry in answer[1]["stages"]]


def call_of(entry: dict[str, Any]) -> StageCall:
    """Return an entry of the gateway's journal as a call."""
    return StageCall(
        stage=Stage(entry["stage"]),
        pod=entry["pod"],
        took_ms=entry["duration_ms"],
        failure=entry["failure"] or "",
    )


def summary(calls: Sequence[StageCall], stage: Stage) -> str:
    """Say which pods served one stage and for how long; a dash if the request skipped it."""
    by_pod: dict[str, list[str]] = {}
    for call in calls:
        if call.stage is stage:
            by_pod.setdefault(call.pod, []).append(_told(call))
    return ", ".join(f"{pod} {' + '.join(told)}" for pod, told in by_pod.items()) or "-"


def _told(call: StageCall) -> str:
    if call.failure:
        return f"failed ({call.failure})"
    return "…" if call.took_ms is None else f"{call.took_ms:.0f} ms"
