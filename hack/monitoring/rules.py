"""The recording rules and the alerts, as data. `gen_monitoring.py` writes them for Prometheus.

Burn rates follow the multi-window pattern of Google's SRE workbook (chapter 5): a long window says
that it matters, a short one that it still goes on. Their factors are lower than the book's: an
objective of 90 % leaves a tenth of the answers, and 14 times a tenth can never be missed.
"""

import re
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from epd import telemetry
from monitoring.promql import CLUSTER, increase, quantile, rate, series, summed


@unique
class Severity(StrEnum):
    """How soon somebody must look."""

    CRITICAL = "critical"  # users are not served: now, at night too
    WARNING = "warning"  # within the working day


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule."""

    record: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert; its runbook is docs/runbooks/NAME.md.

    Attributes:
        name: In CamelCase, beginning with EPD.
        expr: Is true where something is wrong.
        hold: How long it must be, as Prometheus writes durations.
        severity: How soon somebody must look.
        summary: One sentence; labels as Prometheus' templates.
        description: What is seen, and where to look first.
        limit_s: Seconds that stand behind the comparison which ends `expr`; None: none do.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    summary: str
    description: str
    limit_s: float | None = None

    def condition(self, faster: float = 1) -> str:
        """Return the whole expression, with every duration divided by `faster`."""
        limit = "" if self.limit_s is None else f" {self.limit_s / faster:.15g}"
        return quickened(self.expr, faster) + limit


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_RANGE: Final = re.compile(r"\[(\d+[smh])\]")


def shortened(duration: str, faster: float) -> str:
    """Return a duration of Prometheus divided by `faster`: "5m" by 30 is "10s"."""
    if faster == 1:
        return duration
    return f"{round(int(duration[:-1]) * _SECONDS[duration[-1]] * 1000 / faster)}ms"


def quickened(expr: str, faster: float) -> str:
    """Return an expression with the window of each range divided by `faster`."""
    return _RANGE.sub(lambda found: f"[{shortened(found[1], faster)}]", expr)


OBJECTIVES: Final = ("ttft", "tpot")
BURN_WINDOWS: Final = ("5m", "30m", "1h", "6h")
FAST_BURN: Final = 5
SLOW_BURN: Final = 2
DECISION_MAX_AGE_S: Final = 60
TURN_MAX_AGE_S: Final = 90
CERTIFICATE_LEFT_DAYS: Final = 14
_LOST: Final = 'reason=~"handoff_lost|incompatible"'
_TTFT_LIMIT: Final = series(telemetry.SLO_LIMIT, 'objective="ttft"')
_KEPT_FROM_ACTING: Final = series(telemetry.CONTROL_HOLDING, 'hold!~"Balanced|Deadband"')
_NAME: Final = "{{ $labels.epd_dev_cluster }}"


def misses(window: str) -> str:
    """Return the name of the rule with the share of answers that missed each objective."""
    return f"epd:slo_misses:ratio_rate{window}"


BUDGET: Final = "epd:slo_budget:ratio"
GOODPUT: Final = "epd:goodput:rate5m"
QUEUE: Final = "epd:stage_queue_seconds:mean5m"
TTFT_P90: Final = "epd:time_to_first_token_seconds:p90_5m"
TPOT_P90: Final = "epd:time_per_output_token_seconds:p90_5m"

RECORDINGS: Final[tuple[Recording, ...]] = (
    *(
        Recording(
            misses(window),
            summed(rate(telemetry.SLO_ANSWERS, window, 'verdict="missed"'), "objective")
            + " / "
            + summed(rate(telemetry.SLO_ANSWERS, window), "objective"),
        )
        for window in BURN_WINDOWS
    ),
    Recording(
        BUDGET, f"clamp_min(1 - min by ({CLUSTER}) ({series(telemetry.SLO_ATTAINMENT)}), 0.001)"
    ),
    Recording(GOODPUT, summed(rate(telemetry.SLO_ANSWERS, "5m", 'objective="all",verdict="met"'))),
    # Little's law: what waits on average, over what ends in a second, is how long it waited.
    Recording(
        QUEUE,
        summed(f"avg_over_time({series(telemetry.WORKER_WAITING)}[5m])", "stage")
        + " / "
        + summed(rate(telemetry.WORKER_FINISHED, "5m"), "stage"),
    ),
    Recording(TTFT_P90, quantile(0.9, telemetry.TTFT, "5m")),
    Recording(TPOT_P90, quantile(0.9, telemetry.TPOT, "5m")),
)


def _burn(objective: str, factor: int, long: str, short: str) -> str:
    """Return whether an objective's budget burns `factor` times too fast in both windows."""
    return " and ".join(
        f'({misses(window)}{{objective="{objective}"}} > on ({CLUSTER}) group_left () '
        f"({factor} * {BUDGET}))"
        for window in (long, short)
    )


def _burns(objective: str) -> tuple[Alert, Alert]:
    word = objective.upper()
    return (
        Alert(
            f"EPD{word}BurnsFast",
            _burn(objective, FAST_BURN, "1h", "5m"),
            "1m",
            Severity.CRITICAL,
            f"{_NAME} misses its {word} objective {FAST_BURN} times as often as it may.",
            "{{ $value | humanizePercentage }} of the answers of the last hour were too late.",
        ),
        Alert(
            f"EPD{word}BurnsSlowly",
            _burn(objective, SLOW_BURN, "6h", "30m"),
            "10m",
            Severity.WARNING,
            f"{_NAME} has missed its {word} objective for hours.",
            "{{ $value | humanizePercentage }} of the answers of the last 6 hours were too late.",
        ),
    )


def _flips_per_pair() -> str:
    flips = summed(increase(telemetry.CONTROL_FLIPS, "10m"), "from_role", "to_role")
    back = flips
    for source, target in (("from_role", "x"), ("to_role", "from_role"), ("x", "to_role")):
        back = f'label_replace({back}, "{target}", "$1", "{source}", "(.*)")'
    pair = f"{CLUSTER}, from_role, to_role"
    return f"({flips} >= 3) and on ({pair}) ({back} >= 3)"


def _lost_share() -> str:
    lost = summed(rate(telemetry.STAGE_FAILURES, "5m", _LOST))
    taken = summed(rate(telemetry.HANDOFF_DURATION, "5m", suffix="_count"))
    return f"{lost} / ({lost} + {taken}) > 0.05"


SERVICE_ALERTS: Final = (
    *_burns("ttft"),
    *_burns("tpot"),
    Alert(
        "EPDRequestsFail",
        summed(rate(telemetry.REQUESTS, "5m", 'status="5xx"'))
        + " / "
        + summed(rate(telemetry.REQUESTS, "5m"))
        + " > 0.01",
        "5m",
        Severity.CRITICAL,
        f"More than 1 % of the requests to {_NAME} fail.",
        "{{ $value | humanizePercentage }} were answered with 5xx in the last 5 minutes.",
    ),
    Alert(
        "EPDNoReadyPods",
        summed(series(telemetry.ROSTER_PODS, 'state="ready"')) + " == 0",
        "2m",
        Severity.CRITICAL,
        f"No pod of {_NAME} takes work.",
        "Its gateways have seen none that is ready for 2 minutes.",
    ),
    Alert(
        "EPDStageWithoutPod",
        f"max by ({CLUSTER}, stage) ({series(telemetry.STAGE_MISSING)}) == 1",
        "1m",
        Severity.CRITICAL,
        f"A gateway of {_NAME} has no pod for {{{{ $labels.stage }}}}.",
        "Its requests overflow to pods of other roles, or fail.",
    ),
    Alert(
        "EPDStageStarved",
        f"{QUEUE} > on ({CLUSTER}) group_left () (max by ({CLUSTER}) ({_TTFT_LIMIT}))",
        "2m",
        Severity.WARNING,
        f"Work waits for {{{{ $labels.stage }}}} in {_NAME} longer than a first token may take.",
        "It waits for {{ $value | humanizeDuration }} on average.",
    ),
    Alert(
        "EPDStagesFail",
        summed(rate(telemetry.STAGE_FAILURES, "5m"), "reason") + " > 0.1",
        "10m",
        Severity.WARNING,
        f"Stages of {_NAME} end without a result ({{{{ $labels.reason }}}}).",
        "Requests are tried again elsewhere, and slower for it.",
    ),
    Alert(
        "EPDHandoffsFail",
        _lost_share(),
        "2m",
        Severity.WARNING,
        f"Handoffs between pods of {_NAME} fail.",
        "{{ $value | humanizePercentage }} of the embeddings and KV caches did not arrive.",
    ),
    Alert(
        "EPDLeasesLeak",
        f"({summed(series(telemetry.WORKER_LEASES), 'worker', 'kind')} > 0) "
        f"and on ({CLUSTER}, worker) "
        f"({summed(increase(telemetry.WORKER_STARTED, '10m'), 'worker')} == 0)",
        "5m",
        Severity.WARNING,
        f"{{{{ $labels.worker }}}} of {_NAME} keeps what nobody will take.",
        "{{ $value }} leases ({{ $labels.kind }}) are left though it has had no work for minutes.",
    ),
    Alert(
        "EPDRosterStale",
        f"min by ({CLUSTER}) ({series(telemetry.ROSTER_CURRENT)}) == 0",
        "5m",
        Severity.WARNING,
        f"A gateway of {_NAME} does not see its pods change.",
        "It serves with the pods it knew. Its log says why the API server fails it.",
    ),
    Alert(
        "EPDVersionSkew",
        f"count by ({CLUSTER}) (count by ({CLUSTER}, version) "
        f"({series(telemetry.GATEWAY_INFO)} or {series(telemetry.WORKER_INFO)})) > 1",
        "30m",
        Severity.WARNING,
        f"Gateways and workers of {_NAME} are of different versions.",
        "{{ $value }} versions have run side by side for half an hour: an upgrade does not end.",
    ),
)

CONTROL_ALERTS: Final = (
    Alert(
        "EPDFlapping",
        _flips_per_pair(),
        "0m",
        Severity.WARNING,
        f"Pods of {_NAME} go to and fro between {{{{ $labels.from_role }}}} and "
        "{{ $labels.to_role }}.",
        "{{ $value | humanize }} flips each way in 10 minutes.",
    ),
    Alert(
        "EPDDecisionsStale",
        f"time() - max by ({CLUSTER}) ({series(telemetry.CONTROL_DECIDED)}) >",
        "1m",
        Severity.WARNING,
        f"Nothing has been decided about {_NAME} for {DECISION_MAX_AGE_S} seconds or more.",
        "Roles stay as they are. The last decision is {{ $value | humanizeDuration }} old.",
        DECISION_MAX_AGE_S,
    ),
    Alert(
        "EPDHeldTooLong",
        f"(max by ({CLUSTER}, hold) ({_KEPT_FROM_ACTING}) == 1) "
        f"and on ({CLUSTER}) ({misses('5m')} > on ({CLUSTER}) group_left () {BUDGET})",
        "5m",
        Severity.WARNING,
        f"The objective of {_NAME} is missed, and its roles are held ({{{{ $labels.hold }}}}).",
        "The control loop sees the need and may not, or cannot, act.",
    ),
    Alert(
        "EPDOperatorAbsent",
        f"absent({series(telemetry.LEADING)} == 1)",
        "5m",
        Severity.WARNING,
        "No epd-operator works.",
        "Clusters go on as they are; nothing is scaled, flipped or repaired.",
    ),
    Alert(
        "EPDOperatorStuck",
        f"time() - {series(telemetry.LAST_TURN)} >",
        "1m",
        Severity.WARNING,
        "Work of an epd-operator hangs.",
        "It is {{ $value | humanizeDuration }} late.",
        TURN_MAX_AGE_S,
    ),
    Alert(
        "EPDOperatorPassesFail",
        f"sum by (namespace) ({increase(telemetry.PASS_FAILURES, '15m')}) > 5",
        "15m",
        Severity.WARNING,
        "The epd-operator in {{ $labels.namespace }} cannot do what clusters ask for.",
        "See its log, and the events of the EPDCluster objects.",
    ),
    Alert(
        "EPDCertificateExpires",
        f"{series(telemetry.CERTIFICATE_EXPIRY)} - time() <",
        "10m",
        Severity.WARNING,
        f"The {{{{ $labels.certificate }}}} certificate of {_NAME} is not renewed.",
        "It ends in {{ $value | humanizeDuration }}.",
        CERTIFICATE_LEFT_DAYS * 86400,
    ),
)

ALERTS: Final = (*SERVICE_ALERTS, *CONTROL_ALERTS)
