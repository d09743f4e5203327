"""Nodes that are only said to be there take any number of pods."""

import json
from typing import Any

from kube.api import wait_until
from kube.fake_nodes import FakeNodes

from epd.vocabulary import CLUSTER_LABEL

PODS = 300
READY = ("Ready", "True")


def condition_pairs(pod: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the conditions of a pod, each as its type and status."""
    return {(each["type"], each["status"]) for each in pod["status"]["conditions"]}


def test_hundreds_of_pods_become_ready_and_go(fake_nodes: FakeNodes) -> None:
    api = fake_nodes.api
    nodes = fake_nodes.add(8, resources={"nvidia.com/gpu": "128"})
    namespace = api.create_namespace()
    pods = f"/api/v1/namespaces/{namespace}/pods"
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    spec = {"containers": [{"name": "main", "image": "none", "resources": limits}]}
    for index in range(PODS):
        metadata = {"name": f"pod-{index}", "labels": {CLUSTER_LABEL: "demo"}}
        api.call("POST", pods, {"metadata": metadata, "spec": spec})

    def some(**selector: str) -> bool:
        return bool(api.client.get(pods, params={**selector, "limit": "1"}).json()["items"])

    wait_until(lambda: not some(fieldSelector="status.phase!=Running"), "not all run")
    found = json.loads(api.client.get(pods).text)["items"]
    assert all(READY in condition_pairs(pod) for pod in found)
    assert {pod["spec"]["nodeName"] for pod in found} <= set(nodes)
    assert len({pod["status"]["podIP"] for pod in found}) == PODS
    api.client.delete(pods)
    wait_until(lambda: not some(), "pods are left")
