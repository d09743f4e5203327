"""The gateway's metrics: series bound once, so that the hot path only adds numbers.

What others count anyway (frames, events, connections, pods) is read from them at scrape time.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from math import ceil
from operator import sub
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from epd import telemetry
from epd.telemetry import LABEL_VALUES, Metric, MetricType
from epd.vocabulary import Component, Method, Role, Stage
from epd.wire.messages import Api
from epd_gateway.calls import Reason
from epd_gateway.http import HttpStats
from epd_gateway.instruments import Family, Histogram, Number
from epd_gateway.roster import Roster
from epd_gateway.settings import Slo

_VERSION: Final = version("epd-operator")
OPENMETRICS: Final = b"application/openmetrics-text"
OPENMETRICS_TYPE: Final = (
    b"content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
)
CONTENT_TYPE: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"

API_NAMES: Final = {Api.CHAT_COMPLETIONS: "chat_completions", Api.COMPLETIONS: "completions"}


class _Families:
    """All of the gateway's own metrics by what they are."""

    def __init__(self) -> None:
        """Make them, without series."""
        own = [metric for metric in _OWN if metric.type is not MetricType.HISTOGRAM]
        self.numbers = {metric.name: Family(metric, Number) for metric in own}
        own = [metric for metric in _OWN if metric.type is MetricType.HISTOGRAM]
        self.histograms = {metric.name: Family(metric, Histogram) for metric in own}

    def number(self, metric: Metric, **labels: str) -> Number:
        """Return a series of a counter or a gauge."""
        return self.numbers[metric.name].labels(**labels)

    def histogram(self, metric: Metric, **labels: str) -> Histogram:
        """Return a series of a histogram."""
        return self.histograms[metric.name].labels(**labels)

    def numbers_by(self, metric: Metric) -> dict[Any, Number]:
        """Return one series for each value of the only label of `metric`."""
        (label,) = metric.labels
        return {value: self.number(metric, **{label: value}) for value in LABEL_VALUES[label]}

    def histograms_by(self, metric: Metric) -> dict[Any, Histogram]:
        """Return one series for each value of the only label of `metric`."""
        (label,) = metric.labels
        return {value: self.histogram(metric, **{label: value}) for value in LABEL_VALUES[label]}


class ApiMetrics:
    """The series of one endpoint."""

    def __init__(self, own: _Families, api: str) -> None:
        self.requests = {
            status: own.number(telemetry.REQUESTS, api=api, status=status)
            for status in LABEL_VALUES["status"]
        }
        self.in_flight = own.number(telemetry.REQUESTS_IN_FLIGHT, api=api)
        self.ttft = {
            (images, method): own.histogram(telemetry.TTFT, api=api, images=images, method=method)
            for images in LABEL_VALUES["images"]
            for method in Method
        }
        self.tpot = {
            method: own.histogram(telemetry.TPOT, api=api, method=method) for method in Method
        }
        self.tpot_p90 = own.histogram(telemetry.TPOT_P90, api=api)
        self.duration = own.histogram(telemetry.REQUEST_DURATION, api=api)


class GatewayMetrics:
    """Everything this process counts itself. Attributes are series, bound once.

    Attributes:
        registry: All metrics, as prometheus_client reads them.
    """

    def __init__(self, slo: Slo) -> None:
        """Make all of the gateway's own metrics; answers are counted against `slo`."""
        self.registry = CollectorRegistry()
        self._read_at_scrape = CollectorRegistry()
        own = _Families()
        self._families: list[Family[Number] | Family[Histogram]] = [
            *own.numbers.values(),
            *own.histograms.values(),
        ]
        for family in self._families:
            self.registry.register(family)
        self.api = {api: ApiMetrics(own, name) for api, name in API_NAMES.items()}
        self.methods: dict[Method, Number] = own.numbers_by(telemetry.REQUEST_METHODS)
        self.stage_duration = StageDurations(own)
        self.stage_outside: dict[Stage, Histogram] = own.histograms_by(telemetry.STAGE_OUTSIDE)
        self.goodput = Goodput(slo, own)
        self.flip_delay = own.histogram(telemetry.FLIP_DELAY)
        self.handoff: dict[str, Histogram] = own.histograms_by(telemetry.HANDOFF_DURATION)
        self.placements: dict[Stage, Number] = own.numbers_by(telemetry.PLACEMENTS)
        self.overflows: dict[Stage, Number] = own.numbers_by(telemetry.OVERFLOWS)
        self.retries: dict[Stage, Number] = own.numbers_by(telemetry.STAGE_RETRIES)
        self.failures: dict[tuple[Stage, Reason], Number] = {
            (stage, reason): own.number(telemetry.STAGE_FAILURES, stage=stage, reason=reason)
            for stage in Stage
            for reason in Reason
        }
        self.replays = own.number(telemetry.REPLAYS)
        self.prompt_tokens = own.number(telemetry.PROMPT_TOKENS)
        self.output_tokens: dict[str, Number] = own.numbers_by(telemetry.OUTPUT_TOKENS)
        self.accepted: dict[str, Number] = own.numbers_by(telemetry.ACCEPTED)
        self.answered: dict[str, Number] = own.numbers_by(telemetry.ANSWERED)
        self.images = own.number(telemetry.IMAGES)
        self.image_tokens = own.number(telemetry.IMAGE_TOKENS)

    def read_at_scrape(self, collector: Collector) -> None:
        """Show also what others count."""
        self.registry.register(collector)
        self._read_at_scrape.register(collector)

    def expose(self, *, with_exemplars: bool = False) -> bytes:
        """Return all metrics in Prometheus' text format, or in OpenMetrics' with exemplars."""
        own = "".join(family.text(with_exemplars=with_exemplars) for family in self._families)
        generate = openmetrics.generate_latest if with_exemplars else generate_latest
        return own.encode() + generate(self._read_at_scrape)


class StageDurations(dict[tuple[Stage, Role], Histogram]):
    """Durations by stage and role; most pairs never occur, so each is bound when it does."""

    def __init__(self, own: _Families) -> None:
        """Bind series of the gateway's own."""
        self._own = own

    def __missing__(self, key: tuple[Stage, Role]) -> Histogram:
        """Bind the series of a pair that occurs for the first time."""
        stage, role = key
        series = self._own.histogram(telemetry.STAGE_DURATION, stage=stage, role=role)
        self[key] = series
        return series


class Goodput:
    """Counts answers that meet the objective, and those that miss it."""

    def __init__(self, slo: Slo, own: _Families) -> None:
        """Say what the objective is, and count against it."""
        self._limits = own.numbers[telemetry.SLO_LIMIT.name]
        self._attainment = own.number(telemetry.SLO_ATTAINMENT)
        self.aim(slo)
        self._answers = {
            (objective, images, met): own.number(
                telemetry.SLO_ANSWERS, objective=objective, images=images, verdict=verdict
            )
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
    gaps = sorted(map(sub, times_s[1:], times_s))
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
        info.add_metric([_VERSION, ",".join(sorted(self._roster.models))], 1)
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


def _counter(metric: Metric, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(metric.name, metric.help, value=value)


def _gauge(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, value=value)
