"""What a metric is: its name, type, unit, labels and buckets; `epd.telemetry` lists ours."""

from dataclasses import dataclass
from enum import StrEnum, unique

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from epd.vocabulary import Component


@unique
class MetricType(StrEnum):
    """The Prometheus types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@unique
class Unit(StrEnum):
    """What a value counts."""

    SECONDS = "seconds"
    BYTES = "bytes"
    TOKENS = "tokens"
    RATIO = "ratio"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Full name in PromQL; a histogram adds `_bucket`, `_sum` and `_count`.
        type: Counter, gauge or histogram.
        unit: What a value counts.
        component: The program that exports it.
        help: One sentence.
        labels: Names of its labels.
        buckets: Upper bounds of a histogram, without infinity.
    """

    name: str
    type: MetricType
    unit: Unit
    component: Component
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def instrument(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    """Register `metric` and return its Prometheus object."""
    if metric.type is MetricType.COUNTER:
        return Counter(metric.name, metric.help, metric.labels, registry=registry)
    if metric.type is MetricType.GAUGE:
        return Gauge(metric.name, metric.help, metric.labels, registry=registry)
    return Histogram(
        metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
    )
