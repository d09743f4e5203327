"""The operator on a real node: its pods are containers, and answer through their Service."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from kube import host_environment
from kube.node import Node
from kube.node_files import SHELL_IMAGE
from running_operator import Clusters, operator, settings, until
from steady_traffic import steady_traffic

from epd.vocabulary import ROLE_LABEL as ROLE
from epd_operator.wanted import Images

IMAGES = Images(worker=SHELL_IMAGE, gateway=SHELL_IMAGE)


@pytest.fixture
async def clusters(one_node: Node, node_namespace: str) -> AsyncIterator[Clusters]:
    """Return the clusters of a restricted namespace, with an operator at work."""
    clusters = Clusters(one_node.api, node_namespace)
    async with operator(settings(one_node.api.kubeconfig, [node_namespace], images=IMAGES)):
        yield clusters


DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQ"
    "DwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def question(text: str, *, image: bool) -> dict[str, Any]:
    """Return a streamed request."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image:
        parts.append({"type": "image_url", "image_url": {"url": DOT}})
    messages = [{"role": "user", "content": parts}]
    common = {"model": "sim", "stream": True, "max_tokens": 40, "temperature": 0, "seed": 1}
    return {**common, "messages": messages}


@asynccontextmanager
async def client_of(node: Node, clusters: Clusters) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the cluster's Service, with its key."""
    core = f"/api/v1/namespaces/{clusters.namespace}"
    service = clusters.api.call("GET", f"{core}/services/demo-gateway")
    secret = clusters.api.call("GET", f"{core}/secrets/demo-api-keys")
    key = base64.b64decode(secret["data"]["keys"]).decode().strip()
    port = node.forward(service["spec"]["clusterIP"], 8000)
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as client:
        refused = await client.post("/v1/chat/completions", json=question("hi", image=False))
        assert refused.status_code == 401
        client.headers["authorization"] = f"Bearer {key}"
        yield client


async def test_no_stream_fails_or_changes_whatever_becomes_of_the_cluster(
    one_node: Node, clusters: Clusters
) -> None:
    clusters.create(
        podTemplate=host_environment.pod_template("worker"),
        gateway={"podTemplate": host_environment.pod_template("gateway")},
        rollout={"drainSeconds": 20},
    )
    await clusters.settled()
    questions = [question("what is this?", image=True), question("say something", image=False)]
    async with (
        client_of(one_node, clusters) as client,
        steady_traffic(client, questions) as traffic,
    ):
        await traffic.more(8)
        traffic.phase = "scaled up"
        clusters.edit(replicas=4)
        await clusters.settled()
        await traffic.more(8)
        traffic.phase = "relabelled"
        pod = next(pod for pod in clusters.pods() if pod["metadata"]["labels"][ROLE] == "decode")
        clusters.merge(clusters.pod_path(pod), {"metadata": {"labels": {ROLE: "prefill"}}})
        await traffic.more(8)
        traffic.phase = "upgraded"
        before = {pod["metadata"]["uid"] for pod in clusters.pods()}
        release = {"metadata": {"annotations": {"example.org/release": "2"}}}
        clusters.edit(podTemplate={**host_environment.pod_template("worker"), **release})
        await until(
            lambda: not before & {pod["metadata"]["uid"] for pod in clusters.pods()},
            patience_s=240,
        )
        await clusters.settled()
        await traffic.more(8)
        traffic.phase = "scaled down"
        clusters.edit(replicas=3)
        await until(lambda: len(clusters.pods()) == 3)
        await clusters.settled()
        traffic.phase = "kubelet and API server restarted"
        one_node.crash("kubelet")
        one_node.crash("kube-apiserver")
        await traffic.more(16)
    assert traffic.faults == []
    await until(one_node.api.is_ready)
    await clusters.settled()
    clusters.delete()
    await until(lambda: clusters.get() is None, patience_s=120)
