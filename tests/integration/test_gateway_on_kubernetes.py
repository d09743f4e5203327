"""A gateway that follows the pods of a real API server, with real workers behind them."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from faulty_api_server import Fault, faulty_api_server
from kube.control_plane import ControlPlane
from mute_proxy import mute_proxy
from pod_cluster import QUESTIONS, QUICK_WATCH, PodCluster, Traffic, pod_cluster, stages_of
from simulated_cluster import until

from epd.vocabulary import Role

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
SPLIT = {"e": E, "p": P, "d": D}
PAIR = {"p": P, "d": D}
AS_PAIR = {"prefill": "p", "decode": "d"}
SWAPPED = {"prefill": "d", "decode": "p"}
MOST_MIB = 100
STATUSES = (409, 410, 429, 500)


@pytest.fixture
def cluster(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> Iterator[PodCluster]:
    with pod_cluster(tmp_path, control_plane.api, namespace) as cluster:
        yield cluster


async def test_the_placement_after_a_relabel_goes_by_the_new_role(cluster):
    await cluster.start(**SPLIT)
    assert await stages_of(cluster) == {"encode": "e", "prefill": "p", "decode": "d"}
    await cluster.flip("p", D)
    await cluster.flip("d", P)
    assert await stages_of(cluster) == {"encode": "e", "prefill": "d", "decode": "p"}
    gateway = psutil.Process(cluster.gateway.pid)
    assert gateway.memory_info().rss < MOST_MIB << 20


async def test_no_stream_fails_while_pods_come_go_and_change_role(cluster):
    cluster.node = "nowhere"
    await cluster.start(**SPLIT)
    cluster.start_worker("new")
    traffic = Traffic(cluster, QUESTIONS, 40)
    async with traffic.running(clients=6):
        await traffic.more(6)
        await cluster.join("new", D)
        await cluster.knows("new", healthy=True)
        for role in (P, E, D):
            await cluster.flip("new", role)
            await traffic.more(6)
        cluster.annotate("d", draining="true")
        await cluster.knows("d", takes_new_work=False, healthy=False)
        await traffic.more(6)
        cluster.annotate("d", draining=None)
        await cluster.knows("d", takes_new_work=True, healthy=True)
        cluster.set_ready("d", False)
        await cluster.knows("d", takes_new_work=False)
        await traffic.more(6)
        cluster.set_ready("d", True)
        await cluster.knows("d", takes_new_work=True)
        cluster.delete("d", grace_s=60)
        await cluster.knows("d", takes_new_work=False)
        await traffic.more(6)
        cluster.delete("d", grace_s=0)
        await cluster.forgets("d")
        await traffic.more(6)
        cluster.delete("new", grace_s=0)  # in the middle of what it decodes
        await cluster.forgets("new")
        await traffic.more(6)
    assert traffic.problems == []
    # Nor was one saved by another pod: what a pod had, it finished.
    assert await cluster.counted("epd_replays_total") == 0
    assert await cluster.counted("epd_stage_retries_total") == 0


async def test_a_watch_that_falls_silent_is_left_for_a_new_one(cluster, control_plane):
    where = urlsplit(control_plane.api.url)
    async with mute_proxy(where.hostname, where.port) as proxy:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
        cluster.kubeconfig.write_text(yaml.safe_dump(config))
        await cluster.start(*QUICK_WATCH, **PAIR)
        proxy.mute()
        await cluster.flip("p", D)
        await cluster.flip("d", P)
        assert proxy.connections > 1
    assert await stages_of(cluster, images=0) == SWAPPED


async def test_watches_that_expire_break_off_or_are_refused_lose_no_pod_and_no_stream(
    cluster, control_plane
):
    async with faulty_api_server(control_plane.api) as way:
        way.kubeconfig(cluster.kubeconfig, cluster.kubeconfig)
        await cluster.start(*QUICK_WATCH, **SPLIT)
        traffic = Traffic(cluster, QUESTIONS, 40)
        async with traffic.running(clients=4):
            for status, end in itertools.product(STATUSES, (way.expire_watches, way.cut_watches)):
                spoilt = len(way.spoilt)
                way.fault_of = lambda request, status=status: Fault(status)
                end()
                await until(lambda spoilt=spoilt: len(way.spoilt) > spoilt)
                way.fault_of = lambda request: None
                # Both come back, each once, in the role that it was given meanwhile.
                for name, role in (("p", D), ("d", P), ("p", P), ("d", D)):
                    await cluster.flip(name, role)
                names = [worker["name"] for worker in await cluster.known_workers()]
                assert sorted(names) == sorted(SPLIT)
            await traffic.more(4)
        cluster.kill()  # a gateway that still watches would keep the proxy's connections
        assert traffic.problems == []
        assert set(way.spoilt) == set(STATUSES)


async def test_pods_of_another_cluster_or_another_program_are_left_alone(
    cluster, control_plane, namespace
):
    await cluster.start(**PAIR)
    for name, labels in {
        "other": {"epd.dev/cluster": "other", "app.kubernetes.io/component": "worker"},
        "gateway": {"epd.dev/cluster": "demo", "app.kubernetes.io/component": "gateway"},
    }.items():
        control_plane.api.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods",
            {
                "metadata": {"name": name, "labels": {"epd.dev/role": "decode", **labels}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        )
    await cluster.flip("p", D)
    assert {worker["name"] for worker in await cluster.known_workers()} == set(PAIR)


async def test_a_gateway_without_the_right_to_see_pods_says_so_and_serves_once_it_has_it(
    cluster, control_plane, namespace
):
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/gateway"
    role = control_plane.api.call("GET", roles)
    control_plane.api.call("PUT", roles, {**role, "rules": []} | {"metadata": {"name": "gateway"}})
    starting = asyncio.create_task(cluster.start(*QUICK_WATCH, **PAIR))
    try:
        await cluster.says("is forbidden")
        control_plane.api.call("PUT", roles, role | {"metadata": {"name": "gateway"}})
        await starting
    finally:
        starting.cancel()
    assert await stages_of(cluster, images=0) == AS_PAIR
