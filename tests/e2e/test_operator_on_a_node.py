"""The operator on a real node: its pods are containers, and answer through their Service."""

import base64
from collections.abc import AsyncIterator

import httpx
import pytest
from kube import host_environment
from kube.node import Node
from kube.node_files import SHELL_IMAGE
from running_operator import Clusters, operator, settings, until

from epd_operator.wanted import Images

IMAGES = Images(worker=SHELL_IMAGE, gateway=SHELL_IMAGE)


@pytest.fixture
async def clusters(one_node: Node, node_namespace: str) -> AsyncIterator[Clusters]:
    """Return the clusters of a restricted namespace, with an operator at work."""
    clusters = Clusters(one_node.api, node_namespace)
    async with operator(settings(one_node.api.kubeconfig, [node_namespace], images=IMAGES)):
        yield clusters


async def test_a_cluster_of_real_pods_answers_and_follows_its_spec(
    one_node: Node, clusters: Clusters
) -> None:
    clusters.create(
        podTemplate=host_environment.pod_template("worker"),
        gateway={"podTemplate": host_environment.pod_template("gateway")},
        rollout={"drainSeconds": 5},
    )
    await clusters.settled()
    core = f"/api/v1/namespaces/{clusters.namespace}"
    service = clusters.api.call("GET", f"{core}/services/demo-gateway")
    secret = clusters.api.call("GET", f"{core}/secrets/demo-api-keys")
    key = base64.b64decode(secret["data"]["keys"]).decode().strip()
    port = one_node.forward(service["spec"]["clusterIP"], 8000)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        question = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}
        refused = await client.post("/v1/chat/completions", json=question)
        assert refused.status_code == 401
        client.headers["authorization"] = f"Bearer {key}"
        answer = await client.post("/v1/chat/completions", json=question)
        assert answer.status_code == 200, answer.text
        clusters.edit(replicas=4)
        await clusters.settled()
        assert len(clusters.pods()) == 4
        clusters.edit(replicas=3)
        await clusters.settled()
        assert len(clusters.pods()) == 3
        answer = await client.post("/v1/chat/completions", json=question)
        assert answer.status_code == 200, answer.text
    clusters.delete()
    await until(lambda: clusters.get() is None, patience_s=120)
