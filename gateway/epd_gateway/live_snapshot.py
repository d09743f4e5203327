"""What a person wants to see at one look: pods, stages against the objective, requests, decisions.

Everything is worked out when somebody looks, from what is kept anyway; a request pays nothing for
it. It covers the last `WINDOW_S` seconds, as far as the last `MOST_REQUESTS` requests reach back.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

from epd.vocabulary import Stage
from epd_gateway.journal import Journal, RequestRecord
from epd_gateway.roster import RoleChange, Roster
from epd_gateway.settings import Slo
from epd_gateway.workers import Worker

WINDOW_S: Final = 60.0
MOST_REQUESTS: Final = 256
SHOWN_REQUESTS: Final = 16
KEEP_S: Final = 0.5
"""Several who look share one snapshot for so long."""

_MOST_DECISION_BYTES: Final = 1 << 20


class LiveSnapshot:
    """Makes snapshots of this gateway process.

    Attributes:
        slo: The objective that requests are held against.
    """

    def __init__(
        self,
        roster: Roster,
        journal: Journal,
        slo: Slo,
        decision_file: Path | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Bind to the parts.

        Args:
            roster: The pods.
            journal: The last requests.
            slo: The objective.
            decision_file: Where the control loop writes its last pass; None: nowhere.
            clock: Monotonic seconds, those of the journal; for tests.
        """
        self._roster = roster
        self._journal = journal
        self.slo = slo
        self._decision_file = decision_file
        self._clock = clock
        self._made_s = -math.inf
        self._made: dict[str, Any] = {}

    def get(self) -> dict[str, Any]:
        """Return the present snapshot as JSON data."""
        now_s = self._clock()
        if now_s - self._made_s >= KEEP_S:
            self._made, self._made_s = self._make(now_s), now_s
        return self._made

    def _make(self, now_s: float) -> dict[str, Any]:
        roster = self._roster
        records = self._journal.newest(MOST_REQUESTS)
        recent = [r for r in records if r.ended_s is None or now_s - r.ended_s <= WINDOW_S]
        ended = [r for r in recent if r.ended_s is not None]
        readiness = roster.readiness()
        pods = [pod_json(worker) for worker in roster.workers.values()]
        return {
            "time": time(),
            "cluster": roster.cluster,
            "models": sorted(roster.models),
            "method": roster.method,
            "roster_version": roster.version,
            "roster_current": roster.is_current,
            "ready": readiness.ready,
            "missing_stages": list(readiness.missing),
            "in_flight": len(recent) - len(ended),
            **rates(ended, now_s),
            "slo": slo_json(ended, self.slo),
            "stages": stages_json(ended, pods, self.slo),
            "pods": pods,
            "requests": [request_json(record, now_s) for record in records[:SHOWN_REQUESTS]],
            "flips": [flip_json(change) for change in reversed(roster.changes)],
            "control": read_decision(self._decision_file),
        }


def rates(ended: Sequence[RequestRecord], now_s: float) -> dict[str, Any]:
    """Return requests and tokens a second, and how requests ended."""
    since_s = min((r.ended_s for r in ended if r.ended_s is not None), default=now_s)
    window_s = min(WINDOW_S, max(1.0, now_s - since_s))
    return {
        "window_s": round(window_s, 1),
        "requests_per_s": round(len(ended) / window_s, 2),
        "output_tokens_per_s": round(sum(r.output_tokens for r in ended) / window_s, 1),
        "failed": sum(r.status >= 500 for r in ended),
        "retried": sum(_was_tried_again(r) for r in ended),
    }


def slo_json(ended: Sequence[RequestRecord], slo: Slo) -> dict[str, Any]:
    """Return the objective and what the answered requests had of it."""
    answered = [r for r in ended if r.status == 200 and ttft_ms(r) is not None]
    ttfts = [ttft for r in answered if (ttft := ttft_ms(r)) is not None]
    tpots = [tpot for r in answered if (tpot := tpot_ms(r)) is not None]
    met = sum(
        (ttft_ms(r) or 0.0) <= slo.ttft_ms and (tpot_ms(r) or 0.0) <= slo.tpot_ms for r in answered
    )
    # A request that failed met nothing; one that the client got wrong or left says nothing.
    counted = len(answered) + sum(r.status >= 500 for r in ended)
    share = slo.attainment_percent / 100
    return {
        "ttft_ms": slo.ttft_ms,
        "tpot_ms": slo.tpot_ms,
        "attainment_percent": slo.attainment_percent,
        "requests": counted,
        "attained_percent": round(100 * met / counted, 1) if counted else None,
        "ttft_reached_ms": quantile(ttfts, share),
        "tpot_reached_ms": quantile(tpots, share),
    }


def stages_json(
    ended: Sequence[RequestRecord], pods: Sequence[Mapping[str, Any]], slo: Slo
) -> list[dict[str, Any]]:
    """Return one entry a stage: how much, how long, and how much of the objective that is."""
    seen: dict[str, list[dict[str, Any]]] = {stage: [] for stage in Stage}
    for record in ended:
        for entry in (e for s in record.stages for e in s.to_json(record.arrived_s)):
            seen[entry["stage"]].append(entry)
    tpots = [tpot for record in ended if (tpot := tpot_ms(record)) is not None]
    told = []
    for stage in Stage:
        done = [e for e in seen[stage] if not e["failure"] and e["duration_ms"] is not None]
        durations = [e["duration_ms"] for e in done]
        handoffs = [e["handoff_ms"] for e in done if e["handoff_ms"]]
        p90_ms = quantile(durations, 0.9)
        # Encode and prefill spend the time to the first token; decode, the time per token.
        spent = quantile(tpots, 0.9) if stage is Stage.DECODE else p90_ms
        limit_ms = slo.tpot_ms if stage is Stage.DECODE else slo.ttft_ms
        told.append(
            {
                "stage": stage,
                "count": len(done),
                "failed": sum(bool(e["failure"]) for e in seen[stage]),
                "overflowed": sum(e["overflow"] for e in seen[stage]),
                "outstanding": sum(pod["outstanding"][stage] for pod in pods),
                "p50_ms": quantile(durations, 0.5),
                "p90_ms": p90_ms,
                "queue_p90_ms": quantile([e["queue_ms"] for e in done], 0.9),
                "handoff_p90_ms": quantile(handoffs, 0.9),
                "per_token_p90_ms": spent if stage is Stage.DECODE else None,
                "of_slo_percent": None if spent is None else round(100 * spent / limit_ms),
            }
        )
    return told


def pod_json(worker: Worker) -> dict[str, Any]:
    """Return what a tile or a line shows of a pod."""
    load = worker.book.latest
    return {
        "name": worker.name,
        "role": worker.role,
        "state": worker.state if worker.takes_new_work else "draining",
        "healthy": worker.view.healthy,
        "outstanding": {stage.value: worker.view.loads[stage].outstanding for stage in Stage},
        "kv_used_percent": None if load is None else round(load.kv_used_permille / 10, 1),
        "leases": None if load is None else load.kv_leases + load.ec_leases,
    }


def request_json(record: RequestRecord, now_s: float) -> dict[str, Any]:
    """Return what a line shows of a request: where it went, and how far it is."""
    hops = [entry for stage in record.stages for entry in stage.to_json(record.arrived_s)]
    return {
        "id": record.response_id,
        "age_s": round(now_s - record.arrived_s, 1),
        "status": record.status or None,
        "images": record.images,
        "ttft_ms": ttft_ms(record),
        "duration_ms": _ms(record.arrived_s, record.ended_s),
        "output_tokens": record.output_tokens,
        "hops": [
            {
                "stage": hop["stage"],
                "pod": hop["pod"],
                "running": hop["duration_ms"] is None,
                "overflow": hop["overflow"],
                "failure": hop["failure"],
            }
            for hop in hops
        ],
    }


def flip_json(change: RoleChange) -> dict[str, Any]:
    """Return a change of role."""
    return {"time": change.at_s, "pod": change.pod, "from": change.before, "to": change.after}


def read_decision(file: Path | None) -> dict[str, Any] | None:
    """Return what the control loop last wrote; None if there is no loop here, or no pass yet."""
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(_MOST_DECISION_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def ttft_ms(record: RequestRecord) -> float | None:
    """Return a request's time to first token; None before."""
    return _ms(record.arrived_s, record.first_token_s)


def tpot_ms(record: RequestRecord) -> float | None:
    """Return a request's time per output token, the mean over m-1 gaps; None without a gap."""
    gaps = record.output_tokens - 1
    if gaps < 1 or record.first_token_s is None or record.ended_s is None:
        return None
    return round(1e3 * (record.ended_s - record.first_token_s) / gaps, 3)


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the least value that `share` of all do not exceed; None of nothing."""
    ranked = sorted(values)
    if not ranked:
        return None
    return round(ranked[max(0, math.ceil(share * len(ranked)) - 1)], 3)


def _ms(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else round(1e3 * (end_s - start_s), 3)


def _was_tried_again(record: RequestRecord) -> bool:
    return any(stage.failure and stage.failure != "cancelled" for stage in record.stages)
