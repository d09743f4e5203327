"""A control plane with nodes that are only said to be there: a thousand pods on a small machine.

kwok plays the nodes' part: pods are scheduled, become ready and go, and nothing runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kube import binaries
from kube.control_plane import ControlPlane

STAGES: Final = Path(__file__).with_name("kwok_stages.yaml")
ANNOTATION: Final = "kwok.x-k8s.io/node"
POD_RANGE: Final = "10.64.0.0/16"
NODE_ADDRESS: Final = "10.63.0.1"
"""Of all nodes alike; nobody ever goes there."""


class FakeNodes(ControlPlane):
    """A control plane and its fake nodes, from `start` to `stop`; `add` makes nodes."""

    def __init__(self, folder: Path | None = None, pod_range: str = POD_RANGE) -> None:
        """Plan one; see `ControlPlane`. Pods get their addresses from `pod_range`."""
        self._pod_range = pod_range
        self._kwok = binaries.find("kwok")["kwok"]
        super().__init__(folder)
        self._count = 0

    def start(self) -> None:
        """Start everything; there are no nodes yet."""
        super().start()
        self.run(
            "kwok",
            self._kwok,
            f"--kubeconfig={self.api.kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
            "--node-lease-duration-seconds=40",
            f"--cidr={self._pod_range}",
            f"--node-ip={NODE_ADDRESS}",
        )

    def add(
        self, count: int, *, pods: int = 250, resources: Mapping[str, str] | None = None
    ) -> list[str]:
        """Add nodes and wait until they are Ready; return their names.

        Args:
            count: How many.
            pods: How many pods each takes.
            resources: What else each has, such as `{"nvidia.com/gpu": "8"}`.
        """
        names = [f"fake-{self._count + index}" for index in range(count)]
        self._count += count
        has = {"cpu": "1000", "memory": "4Ti", "pods": str(pods), **(resources or {})}
        for name in names:
            self.api.call("POST", "/api/v1/nodes", _node(name, has))
        for name in names:
            self.wait("kwok", lambda name=name: self._is_ready(name))  # type: ignore[misc]
        return names

    def _is_ready(self, name: str) -> bool:
        conditions = self.api.call("GET", f"/api/v1/nodes/{name}")["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _node(name: str, has: Mapping[str, str]) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    metadata = {"name": name, "labels": labels, "annotations": {ANNOTATION: "fake"}}
    return {"metadata": metadata, "status": {"capacity": {**has}, "allocatable": {**has}}}
