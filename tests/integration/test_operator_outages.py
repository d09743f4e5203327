"""The API server fails while the operator works: nothing is doubled, nothing is lost."""

import asyncio
from collections import Counter

import pytest
from kube.control_plane import ControlPlane
from mute_proxy import mute_proxy
from pod_player import PodPlayer
from running_operator import Clusters, operator, settings, until

from epd_operator import service


async def test_it_goes_on_after_a_restart_in_the_middle_of_its_work(
    clusters: Clusters, nodes: PodPlayer, epdclusters: ControlPlane
) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create(replicas=12)
        await until(lambda: len(clusters.pods()) >= 3)
        epdclusters.crash_api_server()
        await asyncio.to_thread(epdclusters.restart_api_server)
        await clusters.have(12)


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
            await clusters.have(3)
            proxy.mute()
            clusters.edit(replicas=4)
            clusters.create("other")
            await clusters.have(4)
            await clusters.settled("other")
            assert clusters.roles("other") == Counter({"encode": 1, "prefill": 1, "decode": 1})
            proxy.close()  # else TLS waits for answers that never come
