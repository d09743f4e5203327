"""What several tests of the operator on a real API server share."""

from collections.abc import AsyncIterator

import pytest
from kube.control_plane import ControlPlane
from pod_player import PodPlayer
from running_operator import Clusters


@pytest.fixture
def clusters(epdclusters: ControlPlane, namespace: str) -> Clusters:
    """Return the clusters of a fresh namespace."""
    return Clusters(epdclusters.api, namespace)


@pytest.fixture
async def nodes(clusters: Clusters) -> AsyncIterator[PodPlayer]:
    """Let pods run, though there is no node."""
    async with PodPlayer(clusters.api, clusters.namespace) as player:
        yield player
