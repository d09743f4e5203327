"""The API server is frozen, then gone for long, while gateways serve and the operator works."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube.control_plane import ControlPlane
from pod_cluster import CLUSTER, QUESTIONS, QUICK_WATCH, PodCluster, Traffic, pod_cluster, stages_of
from pod_player import PodPlayer
from running_operator import Clusters, operator, settings, until

from epd.vocabulary import CLUSTER_LABEL, Role

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
SPLIT = {"e": E, "p": P, "d": D}
FROZEN_S = 12.0
GONE_S = 75.0
"""kopf's own attempts end after 54 s, and it gives up."""


@pytest.fixture
def serving(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> Iterator[PodCluster]:
    """Return a cluster whose workers are real, and which no operator looks after."""
    with pod_cluster(tmp_path, control_plane.api, namespace) as cluster:
        yield cluster


@pytest.mark.timeout(400)
async def test_without_an_api_server_no_stream_fails_and_no_pod_is_doubled_or_lost(
    clusters: Clusters, nodes: PodPlayer, serving: PodCluster, epdclusters: ControlPlane
) -> None:
    nodes.holds_back = lambda pod: pod["metadata"]["labels"][CLUSTER_LABEL] == CLUSTER
    await serving.start(*QUICK_WATCH, **SPLIT)
    traffic = Traffic(serving, QUESTIONS, 40)
    here = settings(clusters.api.kubeconfig, [clusters.namespace])
    async with operator(here), traffic.running(clients=4):
        clusters.create("worked-on", replicas=6)
        await until(lambda: len(clusters.pods("worked-on")) >= 2)
        with epdclusters.frozen_api_server():
            await asyncio.sleep(FROZEN_S)
            await serving.says("the last good roster stays")
            assert await stages_of(serving) == {"encode": "e", "prefill": "p", "decode": "d"}
        await clusters.have(6, "worked-on")
        await serving.says("followed again")
        before = {pod["metadata"]["uid"] for pod in clusters.pods("worked-on")}

        epdclusters.crash_api_server()
        try:
            await serving.says("the last good roster stays")
            assert await serving.counted("epd_roster_current") == 0
            await asyncio.sleep(GONE_S)
            assert len(await serving.known_workers()) == len(SPLIT)
            await traffic.more(12)
        finally:
            await asyncio.to_thread(epdclusters.restart_api_server)
        clusters.edit("worked-on", replicas=8)
        await serving.says("followed again")
        await serving.flip("p", D)
        await serving.flip("d", P)
        await traffic.more(6)
        await clusters.have(8, "worked-on")
        assert before <= {pod["metadata"]["uid"] for pod in clusters.pods("worked-on")}
    assert traffic.problems == []
    assert await stages_of(serving) == {"encode": "e", "prefill": "d", "decode": "p"}
