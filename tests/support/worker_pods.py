"""Worker pods as the API server writes them."""

from typing import Any

from epd.vocabulary import CLUSTER_LABEL, COMPONENT_LABEL, ROLE_LABEL, Component

CLUSTER = "demo"


def worker_pod(
    name: str,
    role: str = "decode",
    *,
    address: str = "10.0.0.1",
    port: int = 7000,
    ready: bool = True,
    version: int = 1,
    uid: str = "",
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Return a pod that runs; further `metadata` is taken as it is."""
    return {
        "metadata": {
            "name": name,
            "uid": uid or f"uid-of-{name}",
            "resourceVersion": str(version),
            "labels": {
                CLUSTER_LABEL: CLUSTER,
                COMPONENT_LABEL: Component.WORKER.value,
                ROLE_LABEL: role,
                **(labels or {}),
            },
            "annotations": annotations or {},
            **metadata,
        },
        "spec": {
            "containers": [
                {"name": "sidecar"},
                {"name": "worker", "ports": [{"name": "grpc", "containerPort": port}]},
            ]
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }
