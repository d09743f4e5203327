"""The operator against a real API server, in this process or in one of its own."""

import asyncio
import json
import selectors
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from kube.api import Api
from operator_world import IMAGES, manifest

from epd.vocabulary import ROLE_LABEL
from epd_operator.objects import Kind, Manifest, Ref
from epd_operator.ports import Cluster
from epd_operator.service import run
from epd_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
LINGER_S = 5.0


def settings(kubeconfig: Path, namespaces: Iterable[str], **changes: Any) -> OperatorSettings:
    """Return the settings of an operator for these namespaces, without ports of its own."""
    return OperatorSettings(
        **{
            "namespaces": tuple(namespaces),
            "lease_namespace": "",
            "identity": "test",
            "liveness_port": 0,
            "metrics_port": 0,
            "images": IMAGES,
            "kubeconfig": kubeconfig,
            **changes,
        }
    )


@asynccontextmanager
async def operator(settings: OperatorSettings) -> AsyncIterator[None]:
    """Run an operator in this process."""
    stop, before = asyncio.Event(), _files()
    task = asyncio.create_task(run(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await task
        # Its TLS connections are closed when the server has said goodbye. A loop that is closed
        # before leaves them to the garbage collector, which warns in some other test.
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while _files() > before:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)


def _files() -> int:
    """Count what this event loop looks after: connections, and its own pipe."""
    selector: selectors.BaseSelector = vars(asyncio.get_running_loop())["_selector"]
    return len(selector.get_map())


class Clusters:
    """The `EPDCluster`s of one namespace of a real server, and what the operator made of them."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, name: str = "demo") -> str:
        return f"/apis/epd.dev/v1alpha1/namespaces/{self.namespace}/epdclusters/{name}"

    def create(self, name: str = "demo", replicas: int = 3, **spec: Any) -> None:
        body = manifest(name, replicas, **spec)
        body["metadata"]["namespace"] = self.namespace
        self.api.call("POST", self.path("").rstrip("/"), body)

    def get(self, name: str = "demo") -> Manifest | None:
        answer = self.api.client.get(self.path(name))
        return None if answer.status_code == 404 else answer.json()

    def edit(self, name: str = "demo", **spec: Any) -> None:
        self.merge(self.path(name), {"spec": spec})

    def merge(self, path: str, body: object) -> Any:
        return self.api.call(
            "PATCH",
            path,
            headers={"Content-Type": "application/merge-patch+json"},
            content=json.dumps(body),
        )

    def delete(self, name: str = "demo") -> None:
        self.api.call("DELETE", self.path(name))

    def pods(self, name: str = "demo", component: str = "worker") -> list[Manifest]:
        """Return the pods of one program that are not on their way out."""
        selector = f"epd.dev/cluster={name},app.kubernetes.io/component={component}"
        answer = self.api.call(
            "GET",
            f"/api/v1/namespaces/{self.namespace}/pods",
            params={"labelSelector": selector},
        )
        return [pod for pod in answer["items"] if "deletionTimestamp" not in pod["metadata"]]

    def roles(self, name: str = "demo") -> Counter[str]:
        return Counter(pod["metadata"]["labels"][ROLE_LABEL] for pod in self.pods(name))

    def pod_path(self, pod: Manifest) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"

    def condition(self, kind: str, name: str = "demo") -> tuple[str, str]:
        status = (self.get(name) or {}).get("status") or {}
        for each in status.get("conditions") or ():
            if each["type"] == kind:
                return each["status"], each["reason"]
        return "absent", ""

    def is_settled(self, name: str = "demo") -> bool:
        """Tell whether all is as the spec asks, and the status says so of this generation.

        A pod may have gone since the status was written: the pods themselves are looked at, too.
        """
        cluster = self.get(name) or {"metadata": {}}
        status = cluster.get("status") or {}
        return (
            status.get("observedGeneration") == cluster["metadata"].get("generation")
            and self.condition("Ready", name)[0] == "True"
            and self.condition("Reconciling", name)[0] == "False"
            and sum(map(_is_ready, self.pods(name))) == cluster["spec"]["replicas"]
        )

    async def have(self, replicas: int, name: str = "demo") -> None:
        """Wait until a cluster is settled; it has so many pods, and some in each role."""
        await self.settled(name)
        roles = self.roles(name)
        assert sum(roles.values()) == replicas
        assert all(roles[role] for role in ("encode", "prefill", "decode"))

    async def settled(self, name: str = "demo", patience_s: float = PATIENCE_S) -> None:
        await until(
            lambda: self.is_settled(name),
            lambda: str((self.get(name) or {}).get("status")),
            patience_s,
        )


def _is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class CountingCluster:
    """A `Cluster` that notes what is written."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.writes: list[str] = []

    async def get(self, ref: Ref) -> Manifest | None:
        return await self._cluster.get(ref)

    async def list(self, kind: Kind, namespace: str, labels: Any) -> Any:
        return await self._cluster.list(kind, namespace, labels)

    async def create(self, manifest: Manifest) -> Manifest:
        self.writes.append(f"create {Ref.to(manifest)}")
        return await self._cluster.create(manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        self.writes.append(f"apply {Ref.to(manifest)}")
        return await self._cluster.apply(manifest)

    async def patch(self, ref: Ref, body: Any, *, subresource: str = "") -> Manifest:
        self.writes.append(f"patch {ref} {subresource} {body}")
        return await self._cluster.patch(ref, body, subresource=subresource)

    async def delete(self, ref: Ref, uid: str) -> None:
        self.writes.append(f"delete {ref}")
        await self._cluster.delete(ref, uid)


async def until(
    holds: Callable[[], object], complaint: Callable[[], str] = str, patience_s: float = PATIENCE_S
) -> None:
    """Return once `holds()` is true; it may ask a server, and runs in a thread."""
    deadline_s = time.monotonic() + patience_s
    while not await asyncio.to_thread(holds):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"still not so: {await asyncio.to_thread(complaint)}")
        await asyncio.sleep(0.1)
