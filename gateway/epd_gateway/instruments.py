"""What the gateway counts with: numbers of one thread, written anew where they have changed.

prometheus_client's own take a lock for each number and write every line at every scrape: of a
request's time that was 2 % and 2 % again. These are its form, and a test holds the text to its.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from math import inf
from time import time
from typing import Final, Generic, TypeAlias, TypeVar

from prometheus_client.core import Exemplar, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from epd import telemetry
from epd.telemetry import MetricType

Labels: TypeAlias = dict[str, str]
Sample: TypeAlias = tuple[str, Labels, float, Exemplar | None]
"""What is added to the metric's name and labels, a value, and its exemplar."""

_TOTAL: Final = "_total"
_go: Callable[[float], str] = floatToGoString


class Number:
    """A counter or a gauge: one series.

    Attributes:
        value: What it shows.
    """

    __slots__ = ("_head", "value")

    def __init__(self, metric: telemetry.Metric, labels: Labels) -> None:
        """Begin at zero."""
        self._head = _head(metric.name, labels)
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount

    def dec(self) -> None:
        """Take one away; gauges only."""
        self.value -= 1.0

    def set(self, value: float) -> None:
        """Show this from now on; gauges only."""
        self.value = value

    def text(self, *, with_exemplars: bool) -> str:
        """Return its line; numbers have no exemplars."""
        return f"{self._head}{_go(self.value)}\n"

    def samples(self) -> Iterator[Sample]:
        """Return the same for prometheus_client."""
        yield "", {}, self.value, None


class Histogram:
    """Observations by bucket, and the last one of each bucket whose trace is known.

    Attributes:
        bounds: Upper bounds of the buckets; the last one is infinite.
        counts: Observations in each bucket alone.
        sum: Of all observations.
        exemplars: By bucket: trace id, value and Unix time of the last one with a trace.
    """

    __slots__ = ("_heads", "_shown", "_tails", "bounds", "counts", "exemplars", "sum")

    def __init__(self, metric: telemetry.Metric, labels: Labels) -> None:
        """Begin without observations."""
        name = metric.name
        self.bounds = (*metric.buckets, inf)
        self.counts = [0] * len(self.bounds)
        self.sum = 0.0
        self.exemplars: dict[int, tuple[str, float, float]] = {}
        self._heads = [
            _head(f"{name}_bucket", {**labels, "le": _go(bound)}) for bound in self.bounds
        ]
        self._tails = (_head(f"{name}_count", labels), _head(f"{name}_sum", labels))
        self._shown: dict[bool, tuple[int, str]] = {}

    def observe(self, amount: float, trace_id: str = "") -> None:
        """Count an observation; with a `trace_id` it is the exemplar of its bucket."""
        self.sum += amount
        bucket = bisect_left(self.bounds, amount)
        self.counts[bucket] += 1
        if trace_id:
            self.exemplars[bucket] = (trace_id, amount, time())

    def text(self, *, with_exemplars: bool) -> str:
        """Return its lines; those of the last time, if nothing was observed since."""
        count = sum(self.counts)
        seen, text = self._shown.get(with_exemplars, (-1, ""))
        if seen != count:
            text = "".join(self._lines(with_exemplars=with_exemplars))
            self._shown[with_exemplars] = (count, text)
        return text

    def samples(self) -> Iterator[Sample]:
        """Return the same for prometheus_client."""
        so_far = 0
        for bucket, bound in enumerate(self.bounds):
            so_far += self.counts[bucket]
            known = self.exemplars.get(bucket)
            exemplar = Exemplar({"trace_id": known[0]}, *known[1:]) if known else None
            yield "_bucket", {"le": _go(bound)}, so_far, exemplar
        yield "_count", {}, so_far, None
        yield "_sum", {}, self.sum, None

    def _lines(self, *, with_exemplars: bool) -> Iterator[str]:
        so_far = 0
        for bucket, head in enumerate(self._heads):
            so_far += self.counts[bucket]
            known = self.exemplars.get(bucket) if with_exemplars else None
            yield f"{head}{_go(so_far)}{_told(*known) if known else ''}\n"
        yield f"{self._tails[0]}{_go(so_far)}\n"
        yield f"{self._tails[1]}{_go(self.sum)}\n"


Series = TypeVar("Series", bound=Number | Histogram)


class Family(Collector, Generic[Series]):
    """All series of one metric; prometheus_client's registry can read it."""

    def __init__(
        self, metric: telemetry.Metric, make: Callable[[telemetry.Metric, Labels], Series]
    ):
        """Have no series yet, but the one of a metric without labels."""
        self._metric = metric
        self._make = make
        self._series: dict[tuple[str, ...], Series] = {}
        kind, name = metric.type.value, metric.name
        self._bare = name.removesuffix(_TOTAL) if metric.type is MetricType.COUNTER else name
        self._heads = {
            with_exemplars: f"# HELP {shown} {metric.help}\n# TYPE {shown} {kind}\n"
            for with_exemplars, shown in ((False, name), (True, self._bare))
        }
        if not metric.labels:
            self.labels()

    def labels(self, **labels: str) -> Series:
        """Return the series of these values, made when it is asked for the first time.

        Raises:
            ValueError: The metric has other labels.
        """
        if labels.keys() != set(self._metric.labels):
            raise ValueError(f"{self._metric.name} has the labels {self._metric.labels}")
        key = tuple(str(labels[name]) for name in self._metric.labels)
        if key not in self._series:
            self._series[key] = self._make(self._metric, self._named(key))
        return self._series[key]

    def text(self, *, with_exemplars: bool) -> str:
        """Return all of its lines, in Prometheus' format or in OpenMetrics' with exemplars."""
        series = (each.text(with_exemplars=with_exemplars) for each in self._series.values())
        return self._heads[with_exemplars] + "".join(series)

    def collect(self) -> Iterable[Metric]:
        """Return what prometheus_client's own would."""
        family = Metric(self._bare, self._metric.help, self._metric.type.value)
        for key, series in self._series.items():
            for suffix, more, value, exemplar in series.samples():
                labels = {**self._named(key), **more}
                family.add_sample(self._metric.name + suffix, labels, value, exemplar=exemplar)
        yield family

    def _named(self, key: tuple[str, ...]) -> Labels:
        return dict(zip(self._metric.labels, key, strict=True))


def _told(trace_id: str, value: float, at_s: float) -> str:
    return f' # {{trace_id="{trace_id}"}} {_go(value)} {at_s}'


def _head(name: str, labels: Labels) -> str:
    """Return a line up to its value. Names and values here are words of ours: nothing to escape."""
    told = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
    return f"{name}{{{told}}} " if told else f"{name} "
