"""The API server fails while the operator works: nothing is doubled, nothing is lost."""

import asyncio
from collections import Counter

import pytest
from kube.control_plane import ControlPlane
from mute_proxy import mute_proxy
from pod_player import PodPlayer
from running_operator import Clusters, operator, settings, until

from epd_operator import service

GONE_S = 6.0
FROZEN_S = 12.0


async def pods_are(clusters: Clusters, replicas: int) -> None:
    """Wait until the cluster is settled with so many pods, and none is there twice."""
    await clusters.settled()
    roles = clusters.roles()
    assert sum(roles.values()) == replicas
    assert all(roles[role] for role in ("encode", "prefill", "decode"))


async def test_it_goes_on_after_a_restart_in_the_middle_of_its_work(
    clusters: Clusters, nodes: PodPlayer, epdclusters: ControlPlane
) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create(replicas=12)
        await until(lambda: len(clusters.pods()) >= 3)
        epdclusters.crash_api_server()
        await asyncio.to_thread(epdclusters.restart_api_server)
        await pods_are(clusters, 12)


async def test_it_goes_on_after_the_server_was_frozen(
    clusters: Clusters, nodes: PodPlayer, epdclusters: ControlPlane
) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create(replicas=6)
        await until(lambda: len(clusters.pods()) >= 2)
        with epdclusters.frozen_api_server():
            await asyncio.sleep(FROZEN_S)
        await pods_are(clusters, 6)


async def test_a_watch_that_falls_silent_hides_nothing(
    clusters: Clusters, nodes: PodPlayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SURVEY_S", 1.0)
    host, _, port = clusters.api.url.removeprefix("https://").partition(":")
    async with mute_proxy(host, int(port)) as proxy:
        config = clusters.api.folder / "muted.kubeconfig"
        text = clusters.api.kubeconfig.read_text().replace(f":{port}", f":{proxy.port}")
        config.write_text(text)
        async with operator(settings(config, [clusters.namespace])):
            clusters.create()
            await pods_are(clusters, 3)
            proxy.mute()
            clusters.edit(replicas=4)
            clusters.create("other")
            await pods_are(clusters, 4)
            await clusters.settled("other")
            assert clusters.roles("other") == Counter({"encode": 1, "prefill": 1, "decode": 1})
            proxy.close()  # else TLS waits for answers that never come


async def test_it_goes_on_after_the_server_was_gone(
    clusters: Clusters, nodes: PodPlayer, epdclusters: ControlPlane
) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create()
        await pods_are(clusters, 3)
        epdclusters.crash_api_server()
        await asyncio.sleep(GONE_S)
        await asyncio.to_thread(epdclusters.restart_api_server)
        before = {pod["metadata"]["uid"] for pod in clusters.pods()}
        clusters.edit(replicas=5)
        await pods_are(clusters, 5)
        assert before <= {pod["metadata"]["uid"] for pod in clusters.pods()}
