"""A gateway that follows the pods of a real API server, with real workers behind them."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from kube.control_plane import ControlPlane
from mute_proxy import mute_proxy
from PIL import Image
from pod_cluster import PodCluster, Traffic, pod_cluster
from simulated_cluster import MODEL

from epd.vocabulary import Role

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
SPLIT = {"e": E, "p": P, "d": D}
PAIR = {"p": P, "d": D}
AS_PAIR = {"prefill": "p", "decode": "d"}
SWAPPED = {"prefill": "d", "decode": "p"}
MOST_MIB = 100
QUICK_WATCH = ("kubernetes.watch_s=1", "kubernetes.grace_s=1", "kubernetes.retry_max_s=0.2")


def picture(number: int) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (number % 256, number // 256, 99)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def question(number: int, images: int) -> list[dict[str, Any]]:
    urls = [picture(31 * number + index) for index in range(images)]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": f"question {number}"}, *parts]}]


QUESTIONS = [question(number, number % 3) for number in range(6)]


@pytest.fixture
def cluster(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> Iterator[PodCluster]:
    with pod_cluster(tmp_path, control_plane.api, namespace) as cluster:
        yield cluster


async def stages_of(cluster: PodCluster, images: int = 1) -> dict[str, str]:
    """Return which pod did which stage of a fresh chat."""
    async with cluster.client() as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=question(7, images),
            max_tokens=3,  # type: ignore[arg-type]
        )
    record = await cluster.get(f"/requests/{answer.id}")
    return {stage["stage"]: stage["pod"] for stage in record["stages"]}


async def test_the_placement_after_a_relabel_goes_by_the_new_role(cluster):
    await cluster.start(**SPLIT)
    assert await stages_of(cluster) == {"encode": "e", "prefill": "p", "decode": "d"}
    await cluster.flip("p", D)
    await cluster.flip("d", P)
    assert await stages_of(cluster) == {"encode": "e", "prefill": "d", "decode": "p"}
    gateway = psutil.Process(cluster.gateway.pid)
    assert gateway.memory_info().rss < MOST_MIB << 20


async def test_no_stream_fails_while_pods_come_go_and_change_role(cluster):
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


async def test_an_api_server_that_is_gone_costs_no_stream_and_is_found_again(
    cluster, control_plane
):
    await cluster.start(*QUICK_WATCH, **SPLIT)
    traffic = Traffic(cluster, QUESTIONS, 40)
    async with traffic.running(clients=4):
        control_plane.crash_api_server()
        try:
            await cluster.says("the last good roster stays")
            assert await cluster.counted("epd_roster_current") == 0
            await traffic.more(12)
            assert len(await cluster.known_workers()) == len(SPLIT)
        finally:
            control_plane.restart_api_server()
        await cluster.says("followed again")
        assert await cluster.counted("epd_roster_current") == 1
        await cluster.flip("p", D)
        await cluster.flip("d", P)
        await traffic.more(6)
    assert traffic.problems == []
    assert await stages_of(cluster) == {"encode": "e", "prefill": "d", "decode": "p"}


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


async def test_a_frozen_api_server_is_waited_for(cluster, control_plane):
    await cluster.start(*QUICK_WATCH, **PAIR)
    with control_plane.frozen_api_server():
        await cluster.says("the last good roster stays")
        assert await stages_of(cluster, images=0) == AS_PAIR
    await cluster.flip("p", D)
    await cluster.flip("d", P)
    assert await stages_of(cluster, images=0) == SWAPPED


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
