"""The control loop of a cluster on this machine tells Prometheus of its passes."""

import asyncio
import urllib.request

import pytest
from fake_cluster import until

from epd.api.load import validate_cluster
from epd_operator import local_ports
from epd_operator.local import LocalCluster
from epd_operator.local_commands import WORKER_HOST
from epd_operator.local_state import StateDirectory

MANIFEST = {
    "apiVersion": "epd.dev/v1alpha1",
    "kind": "EPDCluster",
    "metadata": {"name": "here"},
    "spec": {
        "model": {"source": "m", "servedName": "m"},
        "engine": {"type": "Simulated"},
        "replicas": 3,
        "control": {"mode": "Active", "intervalSeconds": 1},
    },
}


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


async def test_passes_are_served_as_metrics_and_the_port_is_given_back(tmp_path):
    directory = StateDirectory(tmp_path / "state")
    directory.claim()
    cluster = LocalCluster(
        validate_cluster(MANIFEST), directory, listen="127.0.0.1:1", report=lambda _: None
    )
    cluster._roster.create("here", "m")
    port = local_ports.free_block(1, WORKER_HOST)
    control = asyncio.create_task(cluster._control(port))
    wanted = 'epd_control_passes_total{epd_dev_cluster="here",namespace="local"} 1.0'

    async def is_told():
        try:
            return wanted in await asyncio.to_thread(
                fetched, f"http://{WORKER_HOST}:{port}/metrics"
            )
        except OSError:
            return False

    async with asyncio.timeout(30):
        while not await is_told():
            assert not control.done()
            await asyncio.sleep(0.05)
    control.cancel()
    with pytest.raises(asyncio.CancelledError):
        await control
    await until(lambda: local_ports.is_free(port, WORKER_HOST))
    directory.release(keep_logs=False)
