"""What the loop reads, one query per signal, and what it makes of the answers.

A `Query` is PromQL for Prometheus, and means the same to `scrape.py`, which answers it from the
programs' own `/metrics` where there is no Prometheus. Both name metrics by `epd.telemetry` only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Final

from epd import telemetry
from epd.telemetry import Metric, MetricType
from epd.vocabulary import Stage

Labels = tuple[str, ...]
Samples = Mapping[str, Mapping[Labels, float]]
"""By signal, then by the values of the labels that its query keeps."""


@dataclass(frozen=True, slots=True)
class Query:
    """The sum of a gauge, or of a counter's rate, by some labels.

    Attributes:
        metric: The metric.
        by: The labels to keep.
        where: Label values to take, the others of that label left out.
        suffix: `_bucket` for a histogram's buckets.
    """

    metric: Metric
    by: Labels = ()
    where: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""

    @property
    def series(self) -> str:
        """Name of the series in an exposition."""
        return self.metric.name + self.suffix

    @property
    def is_rate(self) -> bool:
        """Whether it is a rate over the window, not a present value."""
        return self.metric.type is not MetricType.GAUGE

    def promql(self, matchers: Mapping[str, str], window_s: float) -> str:
        """Return the PromQL of it.

        Args:
            matchers: Label values that tell this cluster's series from others'.
            window_s: What rates are averaged over.
        """
        inner = self.series + selector({**matchers, **self.where})
        if self.is_rate:
            inner = f"rate({inner}[{round(window_s * 1e3)}ms])"
        return f"sum by ({', '.join(self.by)}) ({inner})" if self.by else f"sum({inner})"


def selector(matchers: Mapping[str, str]) -> str:
    """Return PromQL's selector of the series with these label values."""
    return "{" + ",".join(f'{label}="{_quoted(v)}"' for label, v in matchers.items()) + "}"


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


SIGNALS: Final[Mapping[str, Query]] = MappingProxyType(
    {
        "started": Query(telemetry.WORKER_STARTED, by=("worker", "stage")),
        "finished": Query(telemetry.WORKER_FINISHED, by=("worker", "stage")),
        "service": Query(telemetry.WORKER_SERVICE, by=("worker", "stage")),
        "tokens": Query(telemetry.WORKER_FINISHED_TOKENS, by=("worker", "stage")),
        "waiting": Query(telemetry.WORKER_WAITING, by=("worker", "stage")),
        "running": Query(telemetry.WORKER_RUNNING, by=("worker", "stage")),
        "running_tokens": Query(telemetry.WORKER_TOKENS),
        "images": Query(telemetry.IMAGES),
        "accepted": Query(telemetry.ACCEPTED, by=("images",)),
        "answered": Query(telemetry.ANSWERED, by=("images",)),
        "output_tokens": Query(telemetry.OUTPUT_TOKENS, by=("images",)),
        "ttft": Query(telemetry.TTFT, by=("le",), suffix="_bucket"),
        "tpot": Query(telemetry.TPOT, by=("le",), suffix="_bucket"),
    }
)


_BY_KIND: Final = ("accepted", "answered", "output_tokens")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the signals say of the last `window_s` seconds. Rates are per second.

    Attributes:
        window_s: What the rates are averaged over.
        age_s: Age of the youngest sample of the gateways, or of the oldest worker that reports.
        workers: The workers that report.
        started: Work that came to the workers, by stage.
        finished: Work that ended there with its result, by stage.
        service_s: Seconds that finished work took from begin to end, by stage.
        tokens: Tokens of finished work by stage, counted when it ended there, not when its request
            was answered: of images, of prompts, of answers.
        waiting: Work that no engine has begun, by worker and stage.
        running: Work that an engine is at, by worker and stage.
        running_tokens: Prompts and answers so far of all work under way.
        images: Images accepted.
        accepted: Requests that came, by kind (label `images`).
        answered: Requests that were answered, by kind.
        output_tokens: Of answered requests, by kind.
        ttft_ms: Time to the first token by its cumulative buckets, limit in milliseconds to rate.
        tpot_ms: Time per output token, likewise.
    """

    window_s: float
    age_s: float
    workers: frozenset[str]
    started: Mapping[Stage, float]
    finished: Mapping[Stage, float]
    service_s: Mapping[Stage, float]
    tokens: Mapping[Stage, float]
    waiting: Mapping[tuple[str, Stage], float]
    running: Mapping[tuple[str, Stage], float]
    running_tokens: float
    images: float
    accepted: Mapping[str, float]
    answered: Mapping[str, float]
    output_tokens: Mapping[str, float]
    ttft_ms: Sequence[tuple[float, float]]
    tpot_ms: Sequence[tuple[float, float]]


def traffic_of(
    samples: Samples, *, window_s: float, age_s: float, workers: frozenset[str]
) -> Traffic:
    """Put the answers to `SIGNALS` together.

    Args:
        samples: The answers; a signal without series is 0.
        window_s: What rates were averaged over.
        age_s: Age of the measurement.
        workers: The workers that report.
    """
    by_stage = {name: _by_stage(samples.get(name, {})) for name in ("started", "finished")}
    by_kind = {
        name: {kind: value for (kind,), value in samples.get(name, {}).items()} for name in _BY_KIND
    }
    total = {name: sum(samples.get(name, {}).values()) for name in ("images", "running_tokens")}
    return Traffic(
        window_s=window_s,
        age_s=age_s,
        workers=workers,
        started=by_stage["started"],
        finished=by_stage["finished"],
        service_s=_by_stage(samples.get("service", {})),
        tokens=_by_stage(samples.get("tokens", {})),
        waiting=_by_worker(samples.get("waiting", {})),
        running=_by_worker(samples.get("running", {})),
        running_tokens=total["running_tokens"],
        images=total["images"],
        accepted=by_kind["accepted"],
        answered=by_kind["answered"],
        output_tokens=by_kind["output_tokens"],
        ttft_ms=_buckets_ms(samples.get("ttft", {})),
        tpot_ms=_buckets_ms(samples.get("tpot", {})),
    )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return the value below which `share` of the observations lie, as `histogram_quantile` does.

    Args:
        buckets: Upper limits, rising, the last infinite, with the rate at or below each.
        share: 0 to 1.
    """
    if not buckets or not buckets[-1][1] > 0:
        return None
    wanted = share * buckets[-1][1]
    below = under = 0.0
    for limit, rate in buckets:
        if rate >= wanted:
            if not isfinite(limit):
                return below
            inside = rate - under
            return below + (limit - below) * ((wanted - under) / inside if inside else 1.0)
        below, under = limit, rate
    return below


def _buckets_ms(samples: Mapping[Labels, float]) -> list[tuple[float, float]]:
    return sorted((float(limit) * 1e3, rate) for (limit,), rate in samples.items() if limit)


def _by_stage(samples: Mapping[Labels, float]) -> dict[Stage, float]:
    sums = dict.fromkeys(Stage, 0.0)
    for (_, stage), value in samples.items():
        sums[Stage(stage)] += value
    return sums


def _by_worker(samples: Mapping[Labels, float]) -> dict[tuple[str, Stage], float]:
    return {(worker, Stage(stage)): value for (worker, stage), value in samples.items()}
