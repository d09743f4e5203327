"""The gateway's metrics: children bound once, so that the hot path only adds numbers.

What others count anyway (frames, events, connections, pods) is read from them at scrape time.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import pairwise
from math import ceil
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
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from epd import telemetry
from epd.telemetry import LABEL_VALUES, Metric
from epd.vocabulary import Component, Method, Role, Stage
from epd.wire.messages import Api
from epd_gateway.calls import Reason
from epd_gateway.http import HttpStats
from epd_gateway.roster import Roster
from epd_gateway.settings import Slo

OPENMETRICS: Final = b"application/openmetrics-text"
OPENMETRICS_TYPE: Final = (
    b"content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
)
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
        self.ttft: dict[tuple[str, Method], Histogram] = {
            (images, method): ttft.labels(api=api, images=images, method=method)
            for images in LABEL_VALUES["images"]
            for method in Method
        }
        tpot = cast(Histogram, parents[telemetry.TPOT.name])
        self.tpot: dict[Method, Histogram] = {
            method: tpot.labels(api=api, method=method) for method in Method
        }
        tpot_p90 = cast(Histogram, parents[telemetry.TPOT_P90.name])
        self.tpot_p90: Histogram = tpot_p90.labels(api=api)
        duration = cast(Histogram, parents[telemetry.REQUEST_DURATION.name])
        self.duration: Histogram = duration.labels(api=api)


class GatewayMetrics:
    """Everything this process counts itself. Attributes are bound Prometheus children."""

    def __init__(self, slo: Slo, registry: CollectorRegistry | None = None) -> None:
        """Register all of the gateway's own metrics; answers are counted against `slo`."""
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
        self.stage_duration = StageDurations(
            cast(Histogram, parents[telemetry.STAGE_DURATION.name])
        )
        self.stage_outside: dict[Stage, Histogram] = _children(parents, telemetry.STAGE_OUTSIDE)
        self.goodput = Goodput(slo, parents)
        self.flip_delay = cast(Histogram, parents[telemetry.FLIP_DELAY.name])
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

    def expose(self, *, with_exemplars: bool = False) -> bytes:
        """Return all metrics in Prometheus' text format, or in OpenMetrics' with exemplars."""
        generate = openmetrics.generate_latest if with_exemplars else generate_latest
        return generate(self.registry)


class StageDurations(dict[tuple[Stage, Role], Histogram]):
    """Durations by stage and role; most pairs never occur, so each is bound when it does."""

    def __init__(self, parent: Histogram) -> None:
        """Bind children of `parent`."""
        self._parent = parent

    def __missing__(self, key: tuple[Stage, Role]) -> Histogram:
        """Bind the child of a pair that occurs for the first time."""
        stage, role = key
        child = self[key] = self._parent.labels(stage=stage, role=role)
        return child


class Goodput:
    """Counts answers that meet the objective, and those that miss it."""

    def __init__(self, slo: Slo, parents: "dict[str, Counter | Gauge | Histogram]") -> None:
        """Say what the objective is, and count against it."""
        self._limits = cast(Gauge, parents[telemetry.SLO_LIMIT.name])
        self._attainment = cast(Gauge, parents[telemetry.SLO_ATTAINMENT.name])
        self.aim(slo)
        answers = cast(Counter, parents[telemetry.SLO_ANSWERS.name])
        self._answers = {
            (objective, images, met): answers.labels(objective, images, verdict)
            for objective in LABEL_VALUES["objective"]
            for images in LABEL_VALUES["images"]
            for met, verdict in ((True, "met"), (False, "missed"))
        }

    def aim(self, slo: Slo) -> None:
        """Count against another objective from now on, and say which."""
        self._limits.labels(objective="ttft").set(slo.ttft_ms / 1e3)
        self._limits.labels(objective="tpot").set(slo.tpot_ms / 1e3)
        self._attainment.set(slo.attainment_percent / 100)
        self._slo = slo

    def count(self, images: str, ttft_s: float, tpot_s: float | None) -> None:
        """Count a streamed answer; one of a single token has no TPOT to miss."""
        ttft_met = ttft_s * 1e3 <= self._slo.ttft_ms
        tpot_met = tpot_s is None or tpot_s * 1e3 <= self._slo.tpot_ms
        self._answers["ttft", images, ttft_met].inc()
        if tpot_s is not None:
            self._answers["tpot", images, tpot_met].inc()
        self._answers["all", images, ttft_met and tpot_met].inc()

    def fail(self, images: str) -> None:
        """Count an answer that failed for a reason of ours."""
        self._answers["all", images, False].inc()


def p90_gap_s(times_s: Sequence[float]) -> float | None:
    """Return the 90th percentile of the gaps between events (HydraInfer's TPOT of one answer).

    The smallest gap that at least nine tenths do not exceed; None where there is no gap.
    """
    gaps = sorted(later - earlier for earlier, later in pairwise(times_s))
    return gaps[ceil(0.9 * len(gaps)) - 1] if gaps else None


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
        yield from self._stages()
        info = GaugeMetricFamily(
            telemetry.GATEWAY_INFO.name,
            telemetry.GATEWAY_INFO.help,
            labels=telemetry.GATEWAY_INFO.labels,
        )
        info.add_metric([version("epd-operator"), ",".join(sorted(self._roster.models))], 1)
        yield info
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

    def _stages(self) -> Iterable[GaugeMetricFamily]:
        offered = Counts(
            stage
            for worker in self._roster.workers.values()
            if worker.view.healthy
            for stage in worker.view.stages
        )
        missing = self._roster.readiness().missing
        for metric, value in (
            (telemetry.ROSTER_STAGE_PODS, offered.__getitem__),
            (telemetry.STAGE_MISSING, lambda stage: int(stage in missing)),
        ):
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for stage in Stage:
                family.add_metric([stage], value(stage))
            yield family


_READ_AT_SCRAPE: Final = frozenset(
    {
        telemetry.WORKER_FRAMES, telemetry.EVENTS, telemetry.EVENT_BYTES, telemetry.ROSTER_VERSION,
        telemetry.ROSTER_CURRENT, telemetry.ROSTER_PODS, telemetry.CONNECTIONS,
        telemetry.DISCONNECTS, telemetry.REFUSALS, telemetry.ROSTER_STAGE_PODS,
        telemetry.STAGE_MISSING, telemetry.GATEWAY_INFO,
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
