"""`epd-operator` as a process: what it says, how it ends, and that its end changes nothing."""

import signal
from pathlib import Path

import httpx
import pytest
from kube.control_plane import ControlPlane
from operator_process import operator_process
from pod_player import PodPlayer
from running_operator import Clusters, until

from epd_operator import local_ports

HOST = "127.0.0.1"


@pytest.fixture
def clusters(epdclusters: ControlPlane, namespace: str) -> Clusters:
    """Return the clusters of a fresh namespace."""
    return Clusters(epdclusters.api, namespace)


async def test_killed_in_the_middle_it_goes_on_at_the_next_start(clusters: Clusters) -> None:
    here = {"kubeconfig": clusters.api.kubeconfig}
    async with PodPlayer(clusters.api, clusters.namespace):
        async with operator_process(f"--namespace={clusters.namespace}", **here) as first:
            clusters.create(replicas=20)
            await until(lambda: len(clusters.pods()) >= 3)
            first.kill()
            await first.wait()
        async with operator_process(f"--namespace={clusters.namespace}", **here) as second:
            await clusters.settled()
            assert len(clusters.pods()) == 20
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0


async def test_probes_and_metrics_are_answered(clusters: Clusters) -> None:
    first = local_ports.free_block(2, HOST)
    ports = (f"--liveness-port={first}", f"--metrics-port={first + 1}")
    where = f"--namespace={clusters.namespace}"
    async with operator_process(*ports, where, kubeconfig=clusters.api.kubeconfig):

        def says(port: int, path: str, what: str) -> bool:
            try:
                answer = httpx.get(f"http://{HOST}:{port}{path}", trust_env=False)
            except httpx.HTTPError:
                return False
            return answer.is_success and what in answer.text

        await until(lambda: says(first, "/healthz", "ok"))
        await until(lambda: says(first, "/readyz", "ok"))
        await until(lambda: says(first + 1, "/metrics", "epd_operator_leading 1.0"))
    local_ports.release(first, 2)


async def test_a_kubeconfig_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    async with operator_process(kubeconfig=tmp_path / "none") as operator:
        _, said = await operator.communicate()
        assert operator.returncode == 2
        assert said.decode().count("\n") == 1
        assert str(tmp_path / "none") in said.decode()
