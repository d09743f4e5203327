"""The gateway's metrics: children bound once, so that the hot path only adds numbers.

What others count anyway (frames, events, connections, pods) is read from them at scrape time.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from epd import telemetry
from epd.telemetry import LABEL_VALUES, Metric
from epd.vocabulary import Component, Method, Stage
from epd.wire.messages import Api
from epd_gateway.calls import Reason
from epd_gateway.http import HttpStats
from epd_gateway.roster import Roster

CONTENT_TYPE: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"

API_NAMES: Final = {Api.CHAT_COMPLETIONS: "chat_completions", Api.COMPLETIONS: "completions"}


class ApiMetrics:
    """The children of one endpoint."""

    def __init__(self, parents: "dict[str, Counter | Gauge | Histogram]", api: str) -> None:
        requests = cast(Counter, parents[telemetry.REQUESTS.name])
        self.requests = {
            status: requests.labels(api=api, status=status) for status in LABEL_VALUES["status"]
        }
        in_flight = cast(Gauge, parents[telemetry.REQUESTS_IN_FLIGHT.name])
        self.in_flight: Gauge = in_flight.labels(api=api)
        ttft = cast(Histogram, parents[telemetry.TTFT.name])
        self.ttft = {kind: ttft.labels(api=api, images=kind) for kind in LABEL_VALUES["images"]}
        tpot = cast(Histogram, parents[telemetry.TPOT.name])
        self.tpot: Histogram = tpot.labels(api=api)
        duration = cast(Histogram, parents[telemetry.REQUEST_DURATION.name])
        self.duration: Histogram = duration.labels(api=api)


class GatewayMetrics:
    """Everything this process counts itself. Attributes are bound Prometheus children."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register all of the gateway's own metrics."""
        # When a series began is one more series for each, and Prometheus knows it anyway.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        parents: dict[str, Counter | Gauge | Histogram] = {}
        for metric in _OWN:
            parents[metric.name] = cast(
                "Counter | Gauge | Histogram", telemetry.instrument(metric, self.registry)
            )
        self.api = {api: ApiMetrics(parents, name) for api, name in API_NAMES.items()}
        self.methods: dict[Method, Counter] = _children(parents, telemetry.REQUEST_METHODS)
        self.stage_duration: dict[Stage, Histogram] = _children(parents, telemetry.STAGE_DURATION)
        self.handoff: dict[str, Histogram] = _children(parents, telemetry.HANDOFF_DURATION)
        self.placements: dict[Stage, Counter] = _children(parents, telemetry.PLACEMENTS)
        self.overflows: dict[Stage, Counter] = _children(parents, telemetry.OVERFLOWS)
        self.retries: dict[Stage, Counter] = _children(parents, telemetry.STAGE_RETRIES)
        failures = cast(Counter, parents[telemetry.STAGE_FAILURES.name])
        self.failures: dict[tuple[Stage, Reason], Counter] = {
            (stage, reason): failures.labels(stage=stage, reason=reason)
            for stage in Stage
            for reason in Reason
        }
        self.replays = cast(Counter, parents[telemetry.REPLAYS.name])
        self.prompt_tokens = cast(Counter, parents[telemetry.PROMPT_TOKENS.name])
        self.output_tokens: dict[str, Counter] = _children(parents, telemetry.OUTPUT_TOKENS)
        self.accepted: dict[str, Counter] = _children(parents, telemetry.ACCEPTED)
        self.answered: dict[str, Counter] = _children(parents, telemetry.ANSWERED)
        self.images = cast(Counter, parents[telemetry.IMAGES.name])
        self.image_tokens = cast(Counter, parents[telemetry.IMAGE_TOKENS.name])

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RosterCollector(Collector):
    """Reads what the roster and the HTTP front count, when it is scraped."""

    def __init__(
        self, roster: Roster, http: HttpStats, open_connections: Callable[[], int]
    ) -> None:
        """Bind to the counters.

        Args:
            roster: The pods.
            http: What the front has seen.
            open_connections: Returns how many clients are connected.
        """
        self._roster = roster
        self._http = http
        self._open_connections = open_connections

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return nothing: registering must not collect."""
        return ()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the present values."""
        traffic = self._roster.traffic
        yield _counter(telemetry.WORKER_FRAMES, traffic.frames)
        yield _counter(telemetry.EVENTS, traffic.events)
        yield _counter(telemetry.EVENT_BYTES, traffic.event_bytes)
        yield _gauge(telemetry.ROSTER_VERSION, self._roster.version)
        yield _gauge(telemetry.ROSTER_CURRENT, self._roster.is_current)
        yield self._pods()
        yield _gauge(telemetry.CONNECTIONS, self._open_connections())
        yield _counter(telemetry.DISCONNECTS, self._http.disconnects_total)
        refusals = CounterMetricFamily(
            telemetry.REFUSALS.name, telemetry.REFUSALS.help, labels=telemetry.REFUSALS.labels
        )
        for code, count in sorted(self._http.refusals_total.items()):
            refusals.add_metric([code], count)
        yield refusals

    def _pods(self) -> GaugeMetricFamily:
        metric = telemetry.ROSTER_PODS
        counts = Counts(
            (worker.role.value, "ready" if worker.view.healthy else "unready")
            for worker in self._roster.workers.values()
        )
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for role in LABEL_VALUES["role"]:
            for state in LABEL_VALUES["state"]:
                family.add_metric([role, state], counts[role, state])
        return family


_READ_AT_SCRAPE: Final = frozenset(
    {
        telemetry.WORKER_FRAMES, telemetry.EVENTS, telemetry.EVENT_BYTES, telemetry.ROSTER_VERSION,
        telemetry.ROSTER_CURRENT, telemetry.ROSTER_PODS, telemetry.CONNECTIONS,
        telemetry.DISCONNECTS, telemetry.REFUSALS,
    }
)  # fmt: skip
_OWN: Final = tuple(
    metric
    for metric in telemetry.METRICS
    if metric.component is Component.GATEWAY and metric not in _READ_AT_SCRAPE
)


def _children(
    parents: "dict[str, Counter | Gauge | Histogram]", metric: Metric
) -> "dict[Any, Any]":
    """Return one child for each value of the only label of `metric`."""
    (label,) = metric.labels
    parent = parents[metric.name]
    return {value: parent.labels(**{label: value}) for value in LABEL_VALUES[label]}


def _counter(metric: Metric, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(metric.name, metric.help, value=value)


def _gauge(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, value=value)
