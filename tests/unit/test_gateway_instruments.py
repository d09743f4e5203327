"""The gateway's own instruments: their text is, byte for byte, prometheus_client's."""

import random
from collections.abc import Iterator

import pytest
from prometheus_client import (
    CollectorRegistry,
    disable_created_metrics,
    enable_created_metrics,
    generate_latest,
)
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.openmetrics import exposition as openmetrics

from epd import telemetry
from epd.telemetry import Metric, instrument
from epd_gateway import instruments
from epd_gateway.instruments import Family, Histogram, Number
from epd_gateway.metrics import GatewayMetrics
from epd_gateway.settings import Slo

SEED = 20261122
TTFT_LABELS = {"api": "completions", "images": "1+", "method": "E-P-D"}


@pytest.fixture(autouse=True)
def _without_the_time_of_creation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("prometheus_client.metrics.time.time", lambda: 1234.5)
    monkeypatch.setattr(instruments, "time", lambda: 1234.5)
    disable_created_metrics()
    yield
    enable_created_metrics()


def both_texts(family: Family[Number] | Family[Histogram]) -> tuple[str, str]:
    return family.text(with_exemplars=False), family.text(with_exemplars=True) + "# EOF\n"


def their_texts(registry: CollectorRegistry) -> tuple[str, str]:
    return generate_latest(registry).decode(), openmetrics.generate_latest(registry).decode()


@pytest.mark.parametrize("metric", [telemetry.REQUESTS, telemetry.REPLAYS, telemetry.SLO_LIMIT])
@pytest.mark.parametrize("amounts", [(), (1,), (0.25, 3), (1e7, 2.5e9)], ids=str)
def test_numbers_are_written_as_prometheus_client_writes_them(
    metric: Metric, amounts: tuple[float, ...]
) -> None:
    registry, ours = CollectorRegistry(), Family(metric, Number)
    theirs = instrument(metric, registry)
    labels = {name: f"a {name}" for name in metric.labels}
    series = theirs.labels(**labels) if labels else theirs
    ours.labels(**labels)
    for amount in amounts:
        series.inc(amount)  # type: ignore[attr-defined] # a counter or a gauge
        ours.labels(**labels).inc(amount)
    assert both_texts(ours) == their_texts(registry)


@pytest.mark.parametrize("metric", [telemetry.TTFT, telemetry.FLIP_DELAY])
def test_histograms_are_written_as_prometheus_client_writes_them_at_every_scrape(
    metric: Metric,
) -> None:
    rng = random.Random(SEED)
    registry, ours = CollectorRegistry(), Family(metric, Histogram)
    theirs = instrument(metric, registry)
    assert isinstance(theirs, TheirHistogram)
    labels = TTFT_LABELS if metric.labels else {}
    bound = theirs.labels(**labels) if labels else theirs
    edges = list(metric.buckets)
    for scrape in range(20):
        for _ in range(scrape % 3):
            value = rng.choice([rng.choice(edges), rng.lognormvariate(-2, 3), 0.0])
            trace = rng.choice(["", f"{rng.getrandbits(128):032x}"])
            bound.observe(value, {"trace_id": trace} if trace else None)
            ours.labels(**labels).observe(value, trace)
        if scrape or labels:
            ours.labels(**labels)
        assert both_texts(ours) == their_texts(registry), f"seed {SEED}, scrape {scrape}"


def test_a_registry_reads_the_same_series_as_a_scrape_shows() -> None:
    metrics = GatewayMetrics(Slo())
    metrics.goodput.count("1+", 0.2, 0.01)
    metrics.handoff["kv"].observe(0.003, "ab" * 16)
    for with_exemplars, theirs in zip((False, True), their_texts(metrics.registry), strict=True):
        ours = metrics.expose(with_exemplars=with_exemplars).decode()
        assert ours == theirs


@pytest.mark.parametrize("labels", [{"api": "a"}, {"api": "a", "status": "b", "user": "c"}])
def test_a_series_has_exactly_the_labels_of_its_metric(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="epd_requests_total has the labels"):
        Family(telemetry.REQUESTS, Number).labels(**labels)
