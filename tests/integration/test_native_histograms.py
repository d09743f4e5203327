"""Native histograms, made by a real Prometheus of our classic ones, as the chart has it do."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest
from monitoring.live.prometheus import (
    PrometheusServer,
    Target,
    makes_native_histograms,
)
from monitoring.live.watched import until
from programs_of_prometheus import needs_prometheus
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics import exposition

from epd.telemetry import METRICS, TTFT, MetricType, instrument

HISTOGRAMS = [metric for metric in METRICS if metric.type is MetricType.HISTOGRAM]
OBSERVED_S = [0.003, 0.03, 0.3, 0.3, 3.0]
TRACE_ID = "a1" * 16

pytestmark = [pytest.mark.timeout(180), needs_prometheus]


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    """Return every histogram of ours with a few observations, of which a trace is known."""
    registry = CollectorRegistry()
    for metric in HISTOGRAMS:
        histogram = cast(Histogram, instrument(metric, registry))
        child = histogram.labels(*("x" for _ in metric.labels)) if metric.labels else histogram
        for seconds in OBSERVED_S:
            child.observe(seconds, {"trace_id": TRACE_ID})
    return registry


@pytest.fixture(scope="module")
def server(
    registry: CollectorRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    """Run a Prometheus that scrapes it."""
    if not makes_native_histograms():
        pytest.skip("this Prometheus is older than 3")

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", exposition.CONTENT_TYPE_LATEST)
            self.end_headers()
            self.wfile.write(exposition.generate_latest(registry))

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    folder = tmp_path_factory.mktemp("native") / "prometheus"
    try:
        with PrometheusServer(folder, native_histograms=True) as server:
            server.set_targets([Target(f"127.0.0.1:{http.server_port}", {})])
            until(lambda: server.ask("query", query="up == 1")["result"])
            yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def value(server: PrometheusServer, query: str) -> float:
    (found,) = server.ask("query", query=query)["result"]
    return float(found["value"][1])


@pytest.mark.parametrize("metric", HISTOGRAMS, ids=lambda metric: metric.name)
def test_a_histogram_is_there_as_a_classic_and_as_a_native_one(
    server: PrometheusServer, metric
) -> None:
    native, classic = metric.name, f"{metric.name}_bucket"
    assert value(server, f"histogram_count({native})") == len(OBSERVED_S)
    assert value(server, f"{native}_count") == len(OBSERVED_S)
    for share in (0.1, 0.5, 0.9):
        new = value(server, f"histogram_quantile({share}, {native})")
        assert new == pytest.approx(value(server, f"histogram_quantile({share}, {classic})"))


def test_exemplars_then_belong_to_the_native_one(server: PrometheusServer) -> None:
    end_s = time.time()
    found = server.ask("query_exemplars", query=TTFT.name, start=end_s - 600, end=end_s)
    labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
    assert {"trace_id": TRACE_ID} in labels
