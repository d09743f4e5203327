"""Every metric of every program: name, type, labels, unit, help, buckets.

Exporters, PromQL of the control loop, dashboards and alerts all read this list; a series that is
not here does not exist. Names follow Prometheus: prefix `epd_`, base units, `_total` for counters.
Label values are bounded: the allowed ones stand in `LABEL_VALUES`, except for names of workers,
which only a worker's own metrics carry.
"""

from types import MappingProxyType
from typing import Final

from epd.metric import Metric as Metric
from epd.metric import MetricType as MetricType
from epd.metric import Unit as Unit
from epd.metric import instrument as instrument
from epd.vocabulary import Component, Method, Role, Stage

TTFT_BUCKETS_S: Final = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
TPOT_BUCKETS_S: Final = (
    0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    1.0, 2.5,
)  # fmt: skip
DURATION_BUCKETS_S: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0,
)  # fmt: skip
HANDOFF_BUCKETS_S: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
FLIP_BUCKETS_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
STEP_BUCKETS_S: Final = (
    0.001, 0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip

CLUSTER_LABELS: Final = ("namespace", "epd_dev_cluster")
"""Which cluster a series is about, as the chart's PodMonitor labels those of its own pods."""


def _counter(
    component: Component, name: str, help_: str, *labels: str, unit: Unit = Unit.COUNT
) -> Metric:
    return Metric(name, MetricType.COUNTER, unit, component, help_, labels)


def _gauge(
    component: Component, name: str, help_: str, *labels: str, unit: Unit = Unit.COUNT
) -> Metric:
    return Metric(name, MetricType.GAUGE, unit, component, help_, labels)


def _histogram(
    component: Component, name: str, help_: str, buckets: tuple[float, ...], *labels: str
) -> Metric:
    return Metric(
        name, MetricType.HISTOGRAM, Unit.SECONDS, component, help_, labels, buckets=buckets
    )


_GATEWAY: Final = Component.GATEWAY

REQUESTS: Final = _counter(
    _GATEWAY, "epd_requests_total", "Answered requests by API and status class.", "api", "status"
)
REQUESTS_IN_FLIGHT: Final = _gauge(
    _GATEWAY, "epd_requests_in_flight", "Requests that are being served.", "api"
)
REQUEST_METHODS: Final = _counter(
    _GATEWAY, "epd_request_methods_total", "Completed requests by how their stages were split.",
    "method",
)  # fmt: skip
TTFT: Final = _histogram(
    _GATEWAY, "epd_time_to_first_token_seconds",
    "From a streamed request's arrival to its first token.", TTFT_BUCKETS_S, "api", "images",
    "method",
)  # fmt: skip
TPOT: Final = _histogram(
    _GATEWAY, "epd_time_per_output_token_seconds",
    "Mean gap between the tokens of one streamed answer (over m-1 gaps).", TPOT_BUCKETS_S, "api",
    "method",
)  # fmt: skip
TPOT_P90: Final = _histogram(
    _GATEWAY, "epd_time_per_output_token_p90_seconds",
    "90th percentile of the gaps between the tokens of one streamed answer.", TPOT_BUCKETS_S, "api",
)  # fmt: skip
SLO_ANSWERS: Final = _counter(
    _GATEWAY, "epd_slo_answers_total",
    "Streamed answers that met or missed the objective; failed ones missed `all`.", "objective",
    "images", "verdict",
)  # fmt: skip
SLO_LIMIT: Final = _gauge(
    _GATEWAY, "epd_slo_limit_seconds", "What the objective allows.", "objective", unit=Unit.SECONDS
)
SLO_ATTAINMENT: Final = _gauge(
    _GATEWAY, "epd_slo_attainment_ratio", "Share of answers that are to meet the objective.",
    unit=Unit.RATIO,
)  # fmt: skip
REQUEST_DURATION: Final = _histogram(
    _GATEWAY, "epd_request_duration_seconds", "From a request's arrival to its last byte.",
    DURATION_BUCKETS_S, "api",
)  # fmt: skip
STAGE_DURATION: Final = _histogram(
    _GATEWAY, "epd_stage_duration_seconds", "From placing a stage to its outcome, queue included.",
    DURATION_BUCKETS_S, "stage", "role",
)  # fmt: skip
STAGE_OUTSIDE: Final = _histogram(
    _GATEWAY, "epd_stage_outside_seconds",
    "Of a call's time, what was not spent on its worker: in the gateway and on the way.",
    HANDOFF_BUCKETS_S, "stage",
)  # fmt: skip
HANDOFF_DURATION: Final = _histogram(
    _GATEWAY, "epd_handoff_duration_seconds",
    "Time a stage waited for an embedding (ec) or a KV cache (kv) of another pod.",
    HANDOFF_BUCKETS_S, "kind",
)  # fmt: skip
PLACEMENTS: Final = _counter(
    _GATEWAY, "epd_placements_total", "Stages placed on a pod.", "stage"
)  # fmt: skip
OVERFLOWS: Final = _counter(
    _GATEWAY, "epd_overflows_total", "Stages placed on a pod whose role does not offer them.",
    "stage",
)  # fmt: skip
STAGE_FAILURES: Final = _counter(
    _GATEWAY, "epd_stage_failures_total", "Stages that ended without their result.", "stage",
    "reason",
)  # fmt: skip
STAGE_RETRIES: Final = _counter(
    _GATEWAY, "epd_stage_retries_total", "Stages tried again elsewhere.", "stage"
)
REPLAYS: Final = _counter(
    _GATEWAY, "epd_replays_total", "Answers continued elsewhere from the tokens sent so far."
)
PROMPT_TOKENS: Final = _counter(
    _GATEWAY, "epd_prompt_tokens_total", "Prompt tokens of completed requests.", unit=Unit.TOKENS
)
OUTPUT_TOKENS: Final = _counter(
    _GATEWAY, "epd_output_tokens_total", "Output tokens of completed requests.", "images",
    unit=Unit.TOKENS,
)  # fmt: skip
ACCEPTED: Final = _counter(
    _GATEWAY, "epd_accepted_total", "Requests that were to be served.", "images"
)
ANSWERED: Final = _counter(_GATEWAY, "epd_answered_total", "Completed requests.", "images")
IMAGES: Final = _counter(_GATEWAY, "epd_images_total", "Images of accepted requests.")
IMAGE_TOKENS: Final = _counter(
    _GATEWAY, "epd_image_tokens_total", "Tokens of images that were encoded apart.",
    unit=Unit.TOKENS,
)  # fmt: skip
EVENTS: Final = _counter(_GATEWAY, "epd_worker_events_total", "Token events received from workers.")
EVENT_BYTES: Final = _counter(
    _GATEWAY, "epd_worker_event_bytes_total", "Bytes of token events received from workers.",
    unit=Unit.BYTES,
)  # fmt: skip
WORKER_FRAMES: Final = _counter(
    _GATEWAY, "epd_worker_frames_total", "Frames received from workers; one is an engine step."
)
ROSTER_VERSION: Final = _gauge(
    _GATEWAY, "epd_roster_version", "Version of the roster that is applied."
)
ROSTER_CURRENT: Final = _gauge(
    _GATEWAY, "epd_roster_current", "Whether the roster is followed (1), or the last one stays (0)."
)
ROSTER_PODS: Final = _gauge(
    _GATEWAY, "epd_roster_pods", "Pods in the roster by role and whether they can take work.",
    "role", "state",
)  # fmt: skip
ROSTER_STAGE_PODS: Final = _gauge(
    _GATEWAY, "epd_roster_stage_pods", "Pods that can take work and whose role offers a stage.",
    "stage",
)  # fmt: skip
STAGE_MISSING: Final = _gauge(
    _GATEWAY, "epd_roster_stage_missing", "Whether a needed stage has no pod that can take work.",
    "stage",
)  # fmt: skip
FLIP_DELAY: Final = _histogram(
    _GATEWAY, "epd_roster_flip_delay_seconds",
    "From a pod's role being written to this gateway placing by it.", FLIP_BUCKETS_S,
)  # fmt: skip
GATEWAY_INFO: Final = _gauge(
    _GATEWAY, "epd_gateway_info", "The gateway (always 1).", "version", "model"
)
CONNECTIONS: Final = _gauge(_GATEWAY, "epd_http_connections", "Open client connections.")
DISCONNECTS: Final = _counter(
    _GATEWAY, "epd_http_disconnects_total", "Clients gone before their answer was complete."
)
REFUSALS: Final = _counter(
    _GATEWAY, "epd_http_refusals_total", "Requests refused before they were read whole.", "code"
)

_OPERATOR: Final = Component.OPERATOR

LEADING: Final = _gauge(
    _OPERATOR, "epd_operator_leading", "Whether this operator is the one that works (1)."
)
CLUSTERS: Final = _gauge(_OPERATOR, "epd_operator_clusters", "Clusters that are looked after.")
PASSES: Final = _counter(_OPERATOR, "epd_operator_passes_total", "Passes over a cluster.")
PASS_FAILURES: Final = _counter(
    _OPERATOR, "epd_operator_pass_failures_total", "Passes that were refused something or failed."
)
API_CALLS: Final = _counter(
    _OPERATOR, "epd_operator_api_calls_total", "Calls to the API server; its watches do not count.",
    "verb", "result",
)  # fmt: skip
LAST_TURN: Final = _gauge(
    _OPERATOR, "epd_operator_last_turn_timestamp_seconds",
    "When all of its work was last on time: passes, surveys, control loops.", unit=Unit.SECONDS,
)  # fmt: skip
CERTIFICATE_EXPIRY: Final = _gauge(
    _OPERATOR, "epd_operator_certificate_expiry_timestamp_seconds",
    "When a cluster's own certificate ends.", *CLUSTER_LABELS, "certificate", unit=Unit.SECONDS,
)  # fmt: skip
OPERATOR_INFO: Final = _gauge(_OPERATOR, "epd_operator_info", "The operator (always 1).", "version")
CONTROL_DEMAND: Final = _gauge(
    _OPERATOR, "epd_control_demand_pods", "Pods of a role that the traffic asks for.",
    *CLUSTER_LABELS, "role",
)  # fmt: skip
CONTROL_DESIRED: Final = _gauge(
    _OPERATOR, "epd_control_desired_pods", "Pods of a role that the cluster is headed for.",
    *CLUSTER_LABELS, "role",
)  # fmt: skip
CONTROL_PODS: Final = _gauge(
    _OPERATOR, "epd_control_pods", "Ready pods of a role, as the control loop sees them.",
    *CLUSTER_LABELS, "role",
)  # fmt: skip
CONTROL_FLIPS: Final = _counter(
    _OPERATOR, "epd_control_flips_total", "Roles that the control loop changed.", *CLUSTER_LABELS,
    "from_role", "to_role", "why",
)  # fmt: skip
CONTROL_HOLDS: Final = _counter(
    _OPERATOR, "epd_control_holds_total", "Passes that changed nothing, by their reason.",
    *CLUSTER_LABELS, "hold",
)  # fmt: skip
CONTROL_HOLDING: Final = _gauge(
    _OPERATOR, "epd_control_holding", "Whether the last pass changed nothing for this reason (1).",
    *CLUSTER_LABELS, "hold",
)  # fmt: skip
CONTROL_PASSES: Final = _counter(
    _OPERATOR, "epd_control_passes_total", "Passes of the control loop.", *CLUSTER_LABELS
)
CONTROL_DECIDED: Final = _gauge(
    _OPERATOR, "epd_control_last_decision_timestamp_seconds",
    "When the control loop last decided on fresh metrics.", *CLUSTER_LABELS, unit=Unit.SECONDS,
)  # fmt: skip

_WORKER: Final = Component.WORKER

WORKER_WAITING: Final = _gauge(
    _WORKER, "epd_worker_waiting", "Work of a stage that the engine has not begun.", "worker",
    "stage",
)  # fmt: skip
WORKER_RUNNING: Final = _gauge(
    _WORKER, "epd_worker_running", "Work of a stage that the engine is at.", "worker", "stage"
)
WORKER_STARTED: Final = _counter(
    _WORKER, "epd_worker_started_total", "Work of a stage that has come to this worker.", "worker",
    "stage",
)  # fmt: skip
WORKER_FINISHED: Final = _counter(
    _WORKER, "epd_worker_finished_total", "Work of a stage that ended with its result.", "worker",
    "stage",
)  # fmt: skip
WORKER_FAILED: Final = _counter(
    _WORKER, "epd_worker_failed_total", "Work of a stage that ended without its result.", "worker",
    "stage",
)  # fmt: skip
WORKER_CANCELLED: Final = _counter(
    _WORKER, "epd_worker_cancelled_total", "Work of a stage that its gateway gave up.", "worker",
    "stage",
)  # fmt: skip
WORKER_SERVICE: Final = _counter(
    _WORKER, "epd_worker_service_seconds_total",
    "Time from begin to end of finished work of a stage, waiting included.", "worker", "stage",
    unit=Unit.SECONDS,
)  # fmt: skip
WORKER_FINISHED_TOKENS: Final = _counter(
    _WORKER, "epd_worker_finished_tokens_total",
    "Tokens of finished work of a stage: of images, of prompts, of answers.", "worker", "stage",
    unit=Unit.TOKENS,
)  # fmt: skip
WORKER_TOKENS: Final = _gauge(
    _WORKER, "epd_worker_running_tokens", "Tokens of all prompts and answers that are under way.",
    "worker", unit=Unit.TOKENS,
)  # fmt: skip
WORKER_CACHE_USED: Final = _gauge(
    _WORKER, "epd_worker_cache_used_ratio", "Fill of the KV cache (kv) and encoder cache (ec).",
    "worker", "kind", unit=Unit.RATIO,
)  # fmt: skip
WORKER_LEASES: Final = _gauge(
    _WORKER, "epd_worker_leases", "Handoffs kept for a taker.", "worker", "kind"
)
WORKER_RECEIVED: Final = _counter(
    _WORKER, "epd_worker_received_bytes_total", "Bytes taken from other workers.", "worker", "kind",
    unit=Unit.BYTES,
)  # fmt: skip
WORKER_HANDOFF: Final = _histogram(
    _WORKER, "epd_worker_handoff_duration_seconds",
    "Time that work waited for an embedding (ec) or a KV cache (kv) of another worker.",
    HANDOFF_BUCKETS_S, "worker", "kind",
)  # fmt: skip
WORKER_STEP: Final = _histogram(
    _WORKER, "epd_worker_step_duration_seconds",
    "Between two engine steps that gave one gateway tokens, with work under way all the time.",
    STEP_BUCKETS_S, "worker",
)  # fmt: skip
WORKER_INFO: Final = _gauge(
    _WORKER, "epd_worker_info", "The worker (always 1).", "worker", "version", "model", "engine"
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All of the above, in order."""

LABEL_VALUES: Final = MappingProxyType(
    {
        "api": ("chat_completions", "completions"),
        "status": ("2xx", "4xx", "5xx", "gone"),
        "method": tuple(Method),
        "images": ("0", "1+"),
        "stage": tuple(Stage),
        "kind": ("ec", "kv"),
        "reason": (
            "refused", "handoff_lost", "incompatible", "overloaded", "internal", "shutting_down",
            "disconnected", "unresponsive", "deadline",
        ),
        "role": tuple(Role),
        "state": ("ready", "unready"),
        "objective": ("ttft", "tpot", "all"),
        "verdict": ("met", "missed"),
        "verb": ("get", "post", "patch", "delete"),
        "result": ("ok", "gone", "conflict", "refused", "unavailable"),
        "certificate": ("authority", "leaf"),
        "from_role": tuple(Role),
        "to_role": tuple(Role),
        "hold": (
            "NoPods", "MetricsStale", "Balanced", "FlipInFlight", "Cooldown", "Minimum",
            "BudgetSpent", "Deadband",
        ),
        "why": (
            "TTFTBreachPredicted", "TPOTBreachSustained", "MethodChanged", "BelowMinimum",
            "BestSplit",
        ),
    }
)  # fmt: skip
"""Label names to their possible values; labels that are not here have as many as `errors.py`."""
