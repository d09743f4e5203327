"""The control loop's signals from a real Prometheus that scrapes a running cluster."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from chat_streams import ChatStream, ask_about, client_of, numbers
from monitoring.live.prometheus import PrometheusServer, Target
from prometheus_server import prometheus, targets
from running_cluster import Cluster, manifest

from epd.vocabulary import Stage
from epd_cli import kubectl_epd
from epd_operator.control.ports import MetricsUnavailable
from epd_operator.control.prometheus import PrometheusMetrics
from epd_operator.control.signals import Traffic

CURVES = "encode: {batch_ms: 5.0, image_ms: [[1, 5.0]]}\nprefill_ms: [[0, 5.0], [4096, 6.0]]\n"
WINDOW_S = 10.0
KUBECTL = """#!/bin/sh
case "$*" in
  *port-forward*) echo "Forwarding from 127.0.0.1:{port} -> 9090"; exec sleep 600 ;;
  *"get pods"*) echo '{{"items": []}}' ;;
  *) cat {folder}/owner ;;
esac
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "curves.yaml").write_text(CURVES)
    simulated = {"costCurvesFile": str(folder / "curves.yaml")}
    engine = {"type": "Simulated", "simulated": simulated}
    running = Cluster(manifest("simulated", Path("simulated"), engine=engine), folder)
    running.start()
    yield running
    running.stop()


def jobs(cluster: Cluster, workers: int = 3) -> dict[str, list[str]]:
    """Return what is to be scraped: a worker's metrics lie one port above its gRPC."""
    addresses = [pod.address.rpartition(":") for pod in cluster.running.pods[:workers]]
    return {
        "gateway": [cluster.running.gateway_url.removeprefix("http://")],
        "worker": [f"{host}:{int(port) + 1}" for host, _, port in addresses],
    }


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path):
    with prometheus(tmp_path / "prometheus", jobs(cluster)) as server:
        yield server


def metrics_of(server: PrometheusServer, **options) -> PrometheusMetrics:
    options.setdefault("matchers", {"cluster": "test"})
    return PrometheusMetrics(server.url, window_s=WINDOW_S, max_age_s=3.0, **options)


async def read_until(metrics: PrometheusMetrics, holds: Callable[[Traffic], bool]) -> Traffic:
    """Read until something holds; the test's own time limit is the only one."""
    while True:
        try:
            traffic = await metrics.read()
        except MetricsUnavailable:
            traffic = None
        if traffic is not None and holds(traffic):
            return traffic
        await asyncio.sleep(0.2)


async def chat_on(cluster: Cluster) -> None:
    """Chat about one picture after the other, until cancelled."""
    client = client_of(cluster.running.gateway_url)
    try:
        while True:
            stream = ChatStream(ask_about(next(numbers), 1, max_tokens=12))
            await stream.run(client, cluster.running.model)
            assert not stream.error
    finally:
        await client.close()


async def test_what_prometheus_says_is_what_the_cluster_did(
    cluster: Cluster, server: PrometheusServer
) -> None:
    metrics = metrics_of(server)
    await read_until(metrics, lambda traffic: len(traffic.workers) == 3)
    flow = asyncio.create_task(chat_on(cluster))
    try:
        # Series are scraped one after the other: only over a whole window do their rates agree.
        traffic = await read_until(metrics, is_one_picture_a_chat)
    finally:
        flow.cancel()
        await asyncio.gather(flow, return_exceptions=True)
    assert traffic.age_s < 3
    assert traffic.output_tokens["1+"] / traffic.answered["1+"] == pytest.approx(12, rel=0.1)
    assert traffic.service_s[Stage.DECODE] > 0
    assert traffic.tpot_ms[-1][1] > 0
    assert {worker for worker, _ in traffic.running} == traffic.workers


def is_one_picture_a_chat(traffic: Traffic) -> bool:
    stages = (traffic.finished[stage] for stage in Stage)
    answered = sum(traffic.answered.values())
    return answered > 0 and all(
        part / answered == pytest.approx(1, rel=0.2) for part in (traffic.images, *stages)
    )


async def test_another_clusters_series_do_not_count(server: PrometheusServer) -> None:
    await read_until(metrics_of(server), lambda traffic: len(traffic.workers) == 3)
    with pytest.raises(MetricsUnavailable, match="no series of this cluster"):
        await metrics_of(server, matchers={"cluster": "other"}).read()


async def test_a_worker_that_is_scraped_no_more_soon_reports_no_more(
    cluster: Cluster, server: PrometheusServer
) -> None:
    metrics = metrics_of(server)
    await read_until(metrics, lambda traffic: len(traffic.workers) == 3)
    server.set_targets(targets(jobs(cluster, workers=1)))
    await read_until(metrics, lambda traffic: len(traffic.workers) == 1)


async def test_a_frozen_or_dead_prometheus_is_told_apart_from_quiet_traffic(
    server: PrometheusServer,
) -> None:
    metrics = metrics_of(server, timeout_s=1.0)
    await read_until(metrics, lambda traffic: len(traffic.workers) == 3)
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(MetricsUnavailable, match="cannot be asked: timed out"):
        await metrics.read()
    server.process.send_signal(signal.SIGCONT)
    await read_until(metrics, lambda traffic: len(traffic.workers) == 3)
    server.process.kill()
    server.process.wait()
    with pytest.raises(MetricsUnavailable, match="cannot be asked"):
        await metrics.read()


async def test_a_plan_is_made_of_the_traffic_that_prometheus_saw(
    cluster: Cluster,
    server: PrometheusServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As the chart's PodMonitor labels them.
    labels = {"namespace": "ns", "epd_dev_cluster": "demo"}
    addresses = [address for job in jobs(cluster).values() for address in job]
    server.set_targets([Target(address, {"job": "pods", **labels}) for address in addresses])
    owner = manifest("demo", Path("simulated"), engine={"type": "VLLM"})
    owner["metadata"]["namespace"] = "ns"
    (tmp_path / "owner").write_text(json.dumps(owner))
    script = tmp_path / "kubectl"
    port = server.url.rpartition(":")[2]
    script.write_text(KUBECTL.format(port=port, folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "curves.yaml").write_text(CURVES)
    words = ["plan", "demo", "--prometheus", "monitoring/prometheus:9090", "--window-s", "10"]
    words += ["--curves", str(tmp_path / "curves.yaml"), "--seconds", "10", "--pods", "4"]
    metrics = metrics_of(server, matchers=labels)
    assert await asyncio.to_thread(kubectl_epd.main, words) == 1
    assert "Prometheus: " in capsys.readouterr().err
    await read_until(metrics, lambda traffic: len(traffic.workers) == 3)
    assert await asyncio.to_thread(kubectl_epd.main, words) == 1
    assert "no traffic yet" in capsys.readouterr().err
    flow = asyncio.create_task(chat_on(cluster))
    try:
        await read_until(metrics, is_one_picture_a_chat)
        assert await asyncio.to_thread(kubectl_epd.main, [*words, "-o", "json"]) == 0
    finally:
        flow.cancel()
        await asyncio.gather(flow, return_exceptions=True)
    found = json.loads(capsys.readouterr().out)
    traffic, best = found["traffic"], found["plans"][0]
    assert (traffic["image_share"], best["meets_slo"]) == (1.0, True)
    assert traffic["images"] == pytest.approx(1, rel=0.3)
    assert traffic["image_output_tokens"] == pytest.approx(12, rel=0.1)
    assert found["now"]["method"] == "E-P-D"
    assert f'"replicas": {best["pods"]}' in found["command"]
