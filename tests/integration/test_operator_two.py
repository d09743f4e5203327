"""Two operators with a Lease, as processes: one is upgraded, or hangs, and the other takes over."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from faulty_api_server import FaultyApiServer, faulty_api_server
from kube.control_plane import ControlPlane
from operator_process import operator_process
from pod_player import PodPlayer
from running_operator import Clusters, until

TAKEN_OVER_S = 120.0


class Operator:
    """One of the two: its process, and what it wrote."""

    def __init__(self, name: str, way: FaultyApiServer, process: Any) -> None:
        self.name, self.process = name, process
        self._way = way

    @property
    def writes(self) -> list[tuple[str, str, int]]:
        """What it wrote, its claims of the Lease left out: method, path, status."""
        return [
            (method, path, status)
            for method, path, status in self._way.done
            if method != "GET" and "/leases" not in path
        ]


class Pair:
    """Two operators of one namespace, and its clusters."""

    def __init__(self, clusters: Clusters, stack: AsyncExitStack) -> None:
        self.clusters = clusters
        self._stack = stack

    async def start(self, name: str) -> Operator:
        api, namespace = self.clusters.api, self.clusters.namespace
        way = await self._stack.enter_async_context(faulty_api_server(api))
        config = way.kubeconfig(api.kubeconfig, api.folder / f"{namespace}-{name}.kubeconfig")
        options = (f"--namespace={namespace}", f"--lease-namespace={namespace}")
        process = await self._stack.enter_async_context(
            operator_process(*options, f"--identity={name}", kubeconfig=config)
        )
        return Operator(name, way, process)

    async def led_by(self, operator: Operator) -> None:
        await until(lambda: self.holder() == operator.name, self.holder, patience_s=TAKEN_OVER_S)

    def holder(self) -> str:
        namespace = self.clusters.namespace
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/epd-operator"
        lease = self.clusters.api.client.get(path).json()
        return str((lease.get("spec") or {}).get("holderIdentity", ""))

    def uids(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.clusters.pods()}


@pytest.fixture
async def pair(epdclusters: ControlPlane, namespace: str) -> AsyncIterator[Pair]:
    """Return a namespace in which pods run, for two operators."""
    clusters = Clusters(epdclusters.api, namespace)
    async with AsyncExitStack() as stack, PodPlayer(clusters.api, namespace):
        yield Pair(clusters, stack)


def created(writes: list[tuple[str, str, int]]) -> list[int]:
    """Return how the creations of pods ended."""
    return [s for method, path, s in writes if method == "POST" and path.endswith("/pods")]


@pytest.mark.timeout(300)
async def test_an_upgrade_in_the_middle_of_a_scale_up_writes_nothing_twice(pair: Pair) -> None:
    clusters = pair.clusters
    old = await pair.start("old")
    await pair.led_by(old)
    new = await pair.start("new")
    clusters.create(replicas=20)
    await until(lambda: len(clusters.pods()) >= 3)
    before = pair.uids()
    assert new.writes == []
    old.process.terminate()
    assert await old.process.wait() == 0
    await pair.led_by(new)
    await clusters.settled()
    assert len(clusters.pods()) == 20
    assert created(old.writes + new.writes) == [201] * 20
    assert created(old.writes)
    assert before <= pair.uids()
    untouched = [path for method, path, _ in new.writes if method in ("PATCH", "DELETE")]
    assert not [path for path in untouched if "/pods/" in path]


@pytest.mark.timeout(300)
async def test_a_leader_that_hung_writes_no_more_once_another_leads(pair: Pair) -> None:
    clusters = pair.clusters
    first = await pair.start("first")
    await pair.led_by(first)
    second = await pair.start("second")
    clusters.create()
    await clusters.settled()
    assert second.writes == []
    first.process.send_signal(signal.SIGSTOP)
    written = list(first.writes)
    await pair.led_by(second)
    before = pair.uids()
    clusters.edit(replicas=5)
    await clusters.settled()
    first.process.send_signal(signal.SIGCONT)
    clusters.edit(replicas=6)
    await clusters.settled()
    assert first.writes == written
    assert created(first.writes + second.writes) == [201] * 6
    assert before <= pair.uids()
    second.process.terminate()
    await pair.led_by(first)
    clusters.edit(replicas=7)
    await clusters.settled()
    assert created(first.writes + second.writes) == [201] * 7
