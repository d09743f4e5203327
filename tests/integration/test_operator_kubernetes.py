"""The operator on a real API server: what a user applies, edits and deletes."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from kube.control_plane import ControlPlane
from pod_player import PodPlayer
from running_operator import CRD, Clusters, operator, settings, until


@pytest.fixture(scope="session")
def epd_api(control_plane: ControlPlane) -> ControlPlane:
    """Return the control plane once it knows `EPDCluster`."""
    control_plane.api.kubectl("apply", "--server-side", "-f", CRD)
    control_plane.api.kubectl("wait", "--for=condition=Established", "-f", CRD, "--timeout=30s")
    return control_plane


@pytest.fixture
def clusters(epd_api: ControlPlane, namespace: str) -> Clusters:
    """Return the clusters of a fresh namespace."""
    return Clusters(epd_api.api, namespace)


@pytest.fixture
async def nodes(clusters: Clusters) -> AsyncIterator[PodPlayer]:
    """Let pods run."""
    async with PodPlayer(clusters.api, clusters.namespace) as player:
        yield player


async def test_applied_scaled_and_deleted(clusters: Clusters, nodes: PodPlayer) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create(rollout={"drainSeconds": 1})
        await clusters.settled()
        assert clusters.roles() == Counter({"encode": 1, "prefill": 1, "decode": 1})
        clusters.api.kubectl(
            *("scale", "epd/demo", "--replicas=6", "-n", clusters.namespace),
        )
        await clusters.settled()
        assert sum(clusters.roles().values()) == 6
        clusters.edit(replicas=2)
        await clusters.settled()
        assert len(clusters.pods()) == 2
        clusters.delete()
        await until(lambda: clusters.get() is None)
        await until(lambda: not clusters.pods() and not clusters.pods(component="gateway"))
