"""The API server answers 409, 410, 429 and 500, and ends watches: nothing is doubled or lost."""

import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from faulty_api_server import Fault, FaultyApiServer, faulty_api_server, is_watch
from pod_player import PodPlayer
from running_operator import Clusters, operator, settings, until

from epd_operator import reconcile, service

SOON = {"drainSeconds": 1}
SEED = 20261121
NEVER_S = 3600.0
OF_READS = [Fault(status) for status in (429, 500)]
OF_WRITES = [
    Fault(status, takes_effect) for status in (409, 429, 500) for takes_effect in (False, True)
]
READS_SPOILT = 0.02  # a pass reads a dozen objects, and begins anew if one read fails
WRITES_SPOILT = 0.1


@pytest.fixture
async def server(clusters: Clusters) -> AsyncIterator[FaultyApiServer]:
    """Return the proxy that the operator goes by."""
    async with faulty_api_server(clusters.api) as server:
        yield server


@pytest.fixture
def only_by_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but an event of a watch wake a pass."""
    monkeypatch.setattr(service, "SURVEY_S", NEVER_S)
    monkeypatch.setattr(reconcile, "RESYNC_S", NEVER_S)


def operator_by(server: FaultyApiServer, clusters: Clusters):
    path = clusters.api.folder / f"{clusters.namespace}.kubeconfig"
    config = server.kubeconfig(clusters.api.kubeconfig, path)
    return operator(settings(config, [clusters.namespace]))


def pods_created(server: FaultyApiServer) -> int:
    return sum(
        (method, status) == ("POST", 201) and path.endswith("/pods")
        for method, path, status in server.done
    )


async def settled_with(clusters: Clusters, replicas: int) -> None:
    def is_so() -> bool:
        return clusters.is_settled() and len(clusters.pods()) == replicas

    await until(is_so, lambda: str(clusters.roles()), patience_s=150)
    assert set(clusters.roles()) == {"encode", "prefill", "decode"}


@pytest.mark.timeout(240)
async def test_calls_that_fail_at_random_double_no_pod_and_lose_none(
    clusters: Clusters, nodes: PodPlayer, server: FaultyApiServer
) -> None:
    draw = random.Random(SEED)
    print(f"seed {SEED}")

    def now_and_then(request: web.Request) -> Fault | None:
        if request.method == "GET":
            spoil = not is_watch(request) and draw.random() < READS_SPOILT
            return draw.choice(OF_READS) if spoil else None
        return draw.choice(OF_WRITES) if draw.random() < WRITES_SPOILT else None

    async with operator_by(server, clusters):
        server.fault_of = now_and_then
        clusters.create(replicas=5, rollout=SOON)
        await settled_with(clusters, 5)
        assert pods_created(server) == 5
        before = {pod["metadata"]["uid"] for pod in clusters.pods()}
        clusters.edit(replicas=8)
        await settled_with(clusters, 8)
        assert pods_created(server) == 8
        assert before <= {pod["metadata"]["uid"] for pod in clusters.pods()}
        clusters.edit(replicas=4)
        await settled_with(clusters, 4)
        assert pods_created(server) == 8
    print(f"spoilt: {Counter(server.spoilt)}")
    assert server.spoilt


@pytest.mark.timeout(240)
async def test_watches_that_are_too_old_or_cut_are_opened_again(
    clusters: Clusters, nodes: PodPlayer, server: FaultyApiServer, only_by_watches: None
) -> None:
    async with operator_by(server, clusters):
        clusters.create()
        await settled_with(clusters, 3)
        for replicas, end in ((4, server.expire_watches), (5, server.cut_watches)):
            opened = server.watches
            end()
            clusters.edit(replicas=replicas)
            await settled_with(clusters, replicas)
            await until(lambda before=opened: server.watches > before)
        assert pods_created(server) == 5


@pytest.mark.timeout(240)
@pytest.mark.parametrize("status", [410, 429])
async def test_watches_that_are_refused_for_a_while_are_asked_for_again(
    clusters: Clusters,
    nodes: PodPlayer,
    server: FaultyApiServer,
    only_by_watches: None,
    status: int,
) -> None:
    refused = Counter[str]()

    def thrice(request: web.Request) -> Fault | None:
        if not is_watch(request) or refused[request.path] == 3:
            return None
        refused[request.path] += 1
        return Fault(status)

    async with operator_by(server, clusters):
        clusters.create()
        await settled_with(clusters, 3)
        server.fault_of = thrice
        server.cut_watches()
        clusters.edit(replicas=4)
        await settled_with(clusters, 4)
        await until(lambda: list(refused.values()) == [3, 3, 3])
        clusters.edit(replicas=5)
        await settled_with(clusters, 5)
    assert pods_created(server) == 5
