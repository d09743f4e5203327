"""The operator on a real node with real engines, and their model from each place it may lie."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster_life import Life, at_home, client_of, operator_pod, question
from kube import host_environment
from kube.node import Node
from kube.node_files import SHELL_IMAGE
from reference_answers import MODELS, ROOT, picture, tiny_model
from running_operator import Clusters, until
from steady_traffic import steady_traffic

from epd.vocabulary import Role
from epd_worker.engine.tiny_models import TinyKind

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
P, D = Role.PREFILL, Role.DECODE
SERVED, TOKEN, HUB_PORT = "tiny-qwen3-vl", "a-token-of-the-hub", 8000
MANY = "ReadWriteMany"
PAUSE_S = 0.3  # engines that start need the processors, too
IMAGE = "epd.local/tiny-qwen3-vl:1"
ENGINE = {
    "type": "VLLM",
    "args": [
        "--max-model-len=2048",
        "--dtype=float32",
        "--enforce-eager",
        "--kv-cache-memory-bytes=67108864",
        "--max-num-seqs=32",
    ],
}
COMMON: dict[str, Any] = {
    "engine": ENGINE,
    "control": {"mode": "Off"},
    "rollout": {"drainSeconds": 60, "maxConcurrentPods": 2},
}
QUESTIONS = [
    question(SERVED, "what is this?", picture(1), max_tokens=16),
    question(SERVED, "say something", max_tokens=24),
]


@pytest.fixture
def clusters(one_node: Node, node_namespace: str) -> Iterator[Clusters]:
    """Return the clusters of a restricted namespace, with an operator at work."""
    tiny_model(TinyKind.QWEN3_VL)
    with operator_pod(one_node, node_namespace):
        yield Clusters(one_node.api, node_namespace)


def writable(folder: Path) -> Path:
    """Let pods write there: their user is none of this machine's."""
    folder.chmod(0o777)
    return folder


def workers(*variables: dict[str, str]) -> dict[str, Any]:
    """Return the template of worker pods, with further variables of their environment."""
    template = host_environment.pod_template("worker")
    template["spec"]["containers"][0]["env"] += variables
    return template


def apply(clusters: Clusters, *manifests: dict[str, Any]) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    clusters.api.kubectl("apply", "-n", clusters.namespace, "-f", "-", manifest=items)


async def test_no_stream_of_a_real_engine_fails_or_changes_whatever_becomes_of_the_cluster(
    one_node: Node, clusters: Clusters
) -> None:
    """The model lies on a claim, and after the upgrade in an image: another one to the engines.

    No new pod may hand anything to an old one, and the answers are still the same.
    """
    folder = tiny_model(TinyKind.QWEN3_VL)
    one_node.load_image(IMAGE, {path.name: path for path in folder.iterdir()})
    apply(clusters, *host_environment.folder_claim(clusters.namespace, "models", MODELS))
    clusters.create(
        replicas=3,
        model={"source": f"pvc://models/{folder.name}", "servedName": SERVED},
        **at_home(**COMMON, podTemplate=workers()),
    )
    await clusters.settled(patience_s=300)
    async with (
        client_of(one_node, clusters) as client,
        steady_traffic(client, QUESTIONS, clients=2, pause_s=PAUSE_S) as traffic,
    ):
        life = Life(one_node, clusters, traffic, answers=4, patience_s=240)
        async with life.phase("applied"):
            pass
        async with life.phase("relabelled"):
            life.relabelled(D, P)
        async with life.phase("scaled down"):
            await life.scaled(2)
        async with life.phase("upgraded"):
            await life.upgraded(model={"source": f"oci://{IMAGE}"})
        async with life.phase("scaled up"):
            await life.scaled(3)
        async with life.phase("kubelet and API server restarted"):
            await life.node_agent_and_api_server_restarted()
        await life.deleted()


def hub_pod() -> list[dict[str, Any]]:
    """Return a model hub in the cluster, which asks for a token."""
    template = host_environment.pod_template("hub")["spec"]
    script = ROOT / "tests" / "support" / "hub_mirror.py"
    hub = {
        **template["containers"][0],
        "image": SHELL_IMAGE,
        "command": ["python", str(script), str(MODELS), f"--port={HUB_PORT}", f"--token={TOKEN}"],
        "readinessProbe": {"httpGet": {"path": "/asked", "port": HUB_PORT}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    safe = {
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec = {**template, "containers": [hub], "securityContext": safe}
    spec["terminationGracePeriodSeconds"] = 1
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hub"}, "spec": spec}
    pod["metadata"]["labels"] = {"app": "hub"}
    service = {"selector": {"app": "hub"}, "ports": [{"port": HUB_PORT}]}
    meta = {"name": "hub"}
    return [pod, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service}]


async def test_a_model_of_the_hub_is_fetched_once_for_all_pods_of_a_node(
    one_node: Node, clusters: Clusters, tmp_path: Path
) -> None:
    """A hub that asks for a token, and a cache that is a claim."""
    claim = host_environment.folder_claim(clusters.namespace, "cache", writable(tmp_path), MANY)
    token = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}}
    apply(clusters, *claim, *hub_pod(), {**token, "stringData": {"token": TOKEN}})
    endpoint = {"name": "HF_ENDPOINT", "value": f"http://hub:{HUB_PORT}"}
    folder = tiny_model(TinyKind.QWEN3_VL)
    source = {"source": f"epd/{folder.name}", "servedName": SERVED}
    source |= {"tokenSecretRef": {"name": "hub"}, "cache": {"type": "Claim", "claimName": "cache"}}
    clusters.create(replicas=2, model=source, **at_home(**COMMON, podTemplate=workers(endpoint)))
    await clusters.settled(patience_s=300)
    service = f"/api/v1/namespaces/{clusters.namespace}/services/hub"
    port = one_node.forward(clusters.api.call("GET", service)["spec"]["clusterIP"], HUB_PORT)
    async with httpx.AsyncClient(trust_env=False) as http:
        sent = (await http.get(f"http://127.0.0.1:{port}/asked")).json()
    assert sent[f"{folder.name}/model.safetensors"] == 1
    assert max(sent.values()) == 1
    async with (
        client_of(one_node, clusters) as client,
        steady_traffic(client, QUESTIONS, clients=2, pause_s=PAUSE_S) as traffic,
    ):
        await traffic.more(4)
        assert traffic.faults == []
    clusters.delete()
    await until(lambda: clusters.get() is None, patience_s=120)
