"""A node that falls silent: its pods are replaced elsewhere, though nobody confirms their end."""

from collections import Counter
from collections.abc import Iterator

import pytest
from kube.fake_nodes import ANNOTATION, FakeNodes
from running_operator import Clusters, operator, settings, until

SOON = [
    {
        "key": f"node.kubernetes.io/{trouble}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    for trouble in ("not-ready", "unreachable")
]
"""A user's word instead of ours, which a test need not wait for."""


@pytest.fixture
def clusters(fake_nodes: FakeNodes) -> Iterator[Clusters]:
    """Return the clusters of a fresh namespace."""
    namespace = fake_nodes.api.create_namespace()
    yield Clusters(fake_nodes.api, namespace)
    fake_nodes.api.delete_namespace(namespace)


def silence(clusters: Clusters, node: str) -> None:
    """Have a node no longer played by anybody, as Kubernetes sees one that is cut off."""
    path = f"/api/v1/nodes/{node}"
    clusters.merge(path, {"metadata": {"annotations": {ANNOTATION: None}}})
    conditions = clusters.api.call("GET", path)["status"]["conditions"]
    silent = [{**each, "status": "Unknown"} for each in conditions]
    clusters.merge(f"{path}/status", {"status": {"conditions": silent}})


def nodes_of(clusters: Clusters) -> set[str]:
    return {pod["spec"].get("nodeName") for pod in clusters.pods()}


async def test_pods_of_a_lost_node_are_replaced_in_their_roles(
    fake_nodes: FakeNodes, clusters: Clusters
) -> None:
    ours = fake_nodes.add(2, resources={"example.org/gpu": "9"})
    template = {
        "spec": {
            "tolerations": SOON,
            "containers": [{"name": "worker", "resources": {"limits": {"example.org/gpu": "1"}}}],
        }
    }
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        gateway = {"podTemplate": {"spec": {"tolerations": SOON}}}
        clusters.create(replicas=6, podTemplate=template, gateway=gateway)
        await clusters.settled()
        roles = clusters.roles()
        before = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in clusters.pods()}
        lost, left = Counter(before.values()).most_common()[0][0], set(ours)
        left.remove(lost)
        silence(clusters, lost)
        await until(
            lambda: clusters.roles() == roles and nodes_of(clusters) == left,
            lambda: f"{clusters.roles()} on {nodes_of(clusters)}",
        )
        await clusters.settled()
        # Those that were elsewhere are the ones they were.
        kept = {name for name, node in before.items() if node in left}
        assert kept <= {pod["metadata"]["name"] for pod in clusters.pods()}
        clusters.api.call("DELETE", f"/api/v1/nodes/{lost}")
        await until(lambda: clusters.is_settled() and clusters.roles() == roles)
