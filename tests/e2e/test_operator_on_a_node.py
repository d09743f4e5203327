"""The operator on a real node: its pods are containers, and answer through their Service."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cluster_life import Life, OperatorPod, at_home, client_of, operator_pod, question
from kube import host_environment
from kube.node import Node
from reference_answers import picture
from running_operator import Clusters, until
from steady_traffic import steady_traffic

from epd.vocabulary import Role
from epd_operator.objects import Manifest

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
PODS = 8
RELEASE = {"metadata": {"annotations": {"example.org/release": "2"}}}
QUESTIONS = [
    question("sim", "what is this?", picture(1)),
    question("sim", "say something"),
    question("sim", "and these two?", picture(2), picture(3), max_tokens=80),
]


@pytest.fixture
def operator(one_node: Node, node_namespace: str) -> Iterator[OperatorPod]:
    """Run an operator in a restricted namespace."""
    with operator_pod(one_node, node_namespace) as pod:
        yield pod


def names(pods: Sequence[Manifest]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


ENDS = {"spec": {"containers": [{"name": "worker", "command": ["sh", "-c", "exit 3"]}]}}
BROKEN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "unpullable": (
        {"engine": {"type": "VLLM", "image": "none.invalid/worker:1"}},
        {"ErrImagePull", "ImagePullBackOff"},
    ),
    "crashing": ({"podTemplate": ENDS}, {"CrashLoopBackOff"}),
}
"""Clusters beside ours, in the same namespace, and what is to stand in their status."""


async def broken_are_told_and_go(clusters: Clusters) -> None:
    for name, (_, reasons) in BROKEN.items():
        await until(lambda: clusters.condition("Stalled", name)[1] in reasons)  # noqa: B023
        clusters.delete(name)
    await until(lambda: not any(clusters.get(name) for name in BROKEN), patience_s=120)


@pytest.mark.timeout(600)
async def test_no_stream_fails_or_changes_whatever_becomes_of_the_cluster(
    one_node: Node, operator: OperatorPod
) -> None:
    clusters = Clusters(one_node.api, operator.namespace)
    workers, gateway = (host_environment.pod_template(name) for name in ("worker", "gateway"))
    roll = {"drainSeconds": 60, "maxConcurrentPods": 2}
    clusters.create(replicas=PODS, rollout=roll, control={"mode": "Off"}, **at_home())
    await clusters.settled(patience_s=180)
    assert clusters.roles().keys() == {E, P, D}
    async with (
        client_of(one_node, clusters) as client,
        steady_traffic(client, QUESTIONS) as traffic,
    ):
        life = Life(one_node, clusters, traffic)
        async with life.phase("applied"):
            assert "demo: sim  roster" in (shown := await life.top()), shown
        async with life.phase("scaled up"):
            await life.scaled(PODS + 1)
        async with life.phase("relabelled"):
            before = clusters.roles()
            life.relabelled(D, P)
            life.relabelled(E, D)
        assert clusters.roles() == before + Counter({P: 1}) - Counter({E: 1})
        gateways = names(clusters.pods(component="gateway"))
        async with life.phase("workers upgraded, another objective and key"):
            clusters.edit(slo={"ttftMilliseconds": 1234})
            life.add_key("another")
            for name, (spec, _) in BROKEN.items():
                clusters.create(name, replicas=1, control={"mode": "Off"}, **spec)
            await life.upgraded(podTemplate={**workers, **RELEASE})
            await life.aimed(ttft_ms=1234)
            await life.accepted("another")
            await broken_are_told_and_go(clusters)
        assert names(clusters.pods(component="gateway")) == gateways
        assert sum(clusters.roles().values()) == PODS + 1
        async with life.phase("gateways upgraded"):
            await life.gateways_upgraded(podTemplate={**gateway, **RELEASE})
        async with life.phase("evicted"):
            await life.evicted()
        async with life.phase("scaled down while the operator is upgraded"):
            upgrade = asyncio.to_thread(
                operator.upgrade, podAnnotations=RELEASE["metadata"]["annotations"]
            )
            await asyncio.gather(upgrade, life.scaled(PODS))
        async with life.phase("kubelet and API server restarted"):
            await life.node_agent_and_api_server_restarted()
        await life.deleted()
