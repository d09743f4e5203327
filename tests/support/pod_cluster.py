"""Simulated workers behind pods of a real API server, and a gateway that follows those pods.

There is no node: what a kubelet would report of a pod (address, Ready) is written by the test, and
the process behind it is a real worker on loopback.
"""

import asyncio
import base64
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from kube.api import Api
from PIL import Image
from simulated_cluster import MODEL, Process, SimulatedCluster, stream_text, until

from epd.vocabulary import CLUSTER_LABEL, COMPONENT_LABEL, LLM_D_ROLE_LABEL, ROLE_LABEL, Role

CLUSTER = "demo"
MERGE = {"content-type": "application/merge-patch+json"}
PODS_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}

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


class PodCluster(SimulatedCluster):
    """Workers by name, each the process behind a pod; a gateway with the least rights.

    Attributes:
        node: Where new pods are bound to. Deleting such a pod takes its time, as with a kubelet;
            but the garbage collector takes pods whose node does not exist, from 40 s on.
        kubeconfig: The gateway's way to the API server.
    """

    node = ""

    def __init__(self, folder: Path, api: Api, namespace: str) -> None:
        super().__init__(folder)
        self._api = api
        self._namespace = namespace
        self._read_so_far = 0
        self.kubeconfig = api.service_account(namespace, "gateway", rules=[PODS_RULE])

    async def join(self, name: str, role: Role) -> int:
        """Create the pod of a worker and make it Ready; return its resourceVersion."""
        (port,) = await self.workers[name].ports()
        self.create_pod(name, role, port)
        return self.set_ready(name, True)

    def create_pod(self, name: str, role: Role, port: int) -> None:
        labels = {CLUSTER_LABEL: CLUSTER, COMPONENT_LABEL: "worker", ROLE_LABEL: role.value}
        container = {"name": "worker", "image": "worker:1"}
        container["ports"] = [{"name": "grpc", "containerPort": port}]  # type: ignore[assignment]
        spec = {"containers": [container], **({"nodeName": self.node} if self.node else {})}
        self._call("POST", "", {"metadata": {"name": name, "labels": labels}, "spec": spec})

    def set_ready(self, name: str, ready: bool) -> int:
        """Report what a kubelet would."""
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
        return self._noted(self._call("PATCH", f"/{name}/status", {"status": status}))

    def relabel(self, name: str, role: Role) -> int:
        """Change a pod's role; return the resourceVersion that says so."""
        labels = {ROLE_LABEL: role.value, LLM_D_ROLE_LABEL: role.value}
        return self._noted(self._call("PATCH", f"/{name}", {"metadata": {"labels": labels}}))

    def annotate(self, name: str, **annotations: str | None) -> int:
        """Set annotations of `epd.dev`."""
        values = {f"epd.dev/{key}": value for key, value in annotations.items()}
        return self._noted(self._call("PATCH", f"/{name}", {"metadata": {"annotations": values}}))

    def delete(self, name: str, grace_s: int) -> None:
        """Delete a pod: terminating for ever, or, with no grace, gone at once."""
        self._call("DELETE", f"/{name}", {"gracePeriodSeconds": grace_s})

    async def flip(self, name: str, role: Role) -> None:
        await self.applied(self.relabel(name, role))

    async def start_gateway(self, *settings: str, processes: int = 1) -> None:
        arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        arguments += ["--kubernetes-cluster", CLUSTER, "--namespace", self._namespace]
        arguments += [part for setting in settings for part in ("--set", setting)]
        config = {"KUBECONFIG": str(self.kubeconfig)}
        self.gateway = Process("gateway", self.folder, "epd_gateway", *arguments, **config)
        port, admin_port = await self.gateway.ports()
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        await self.ready()

    async def known_workers(self) -> list[dict[str, Any]]:
        roster = await self.get("/roster")
        return roster["workers"] if roster["version"] >= self._version else [{"healthy": False}]

    async def knows(self, name: str, **expected: Any) -> None:
        """Wait until the gateway has these values of a pod."""

        async def does() -> bool:
            found = [w for w in (await self.get("/roster"))["workers"] if w["name"] == name]
            return bool(found) and expected.items() <= found[0].items()

        await until(does)

    async def says(self, words: str) -> None:
        """Wait until the gateway has logged this since it was last waited for."""

        def has_said() -> bool:
            said = self.gateway.log.read_text() if hasattr(self, "gateway") else ""
            at = said.find(words, self._read_so_far)
            self._read_so_far = at + len(words) if at >= 0 else self._read_so_far
            return at >= 0

        await until(has_said)

    async def counted(self, metric: str) -> float:
        """Return the sum of a metric of the gateway."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.admin_url}/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(metric))

    async def forgets(self, name: str) -> None:
        """Wait until a pod has left the gateway's roster."""

        async def has_left() -> bool:
            return name not in {w["name"] for w in (await self.get("/roster"))["workers"]}

        await until(has_left)

    def _noted(self, pod: dict[str, Any]) -> int:
        self._version = max(self._version, int(pod["metadata"]["resourceVersion"]))
        return int(pod["metadata"]["resourceVersion"])

    def _call(self, method: str, path: str, body: object) -> Any:
        base = f"/api/v1/namespaces/{self._namespace}/pods"
        headers = MERGE if method == "PATCH" else {}
        return self._api.call(method, base + path, body, headers=headers)


class Traffic:
    """Streams that follow one another for as long as a block lasts.

    Attributes:
        streams: How many ended well.
        problems: What went wrong, one line each.
    """

    def __init__(self, cluster: SimulatedCluster, questions: list[Any], tokens: int) -> None:
        self.streams = 0
        self.problems: list[str] = []
        self._cluster = cluster
        self._questions = questions
        self._tokens = tokens
        self._numbers = itertools.count()
        self._ending = False

    async def more(self, streams: int) -> None:
        """Wait until so many more streams have ended well, or one did not."""
        wanted = self.streams + streams
        await until(lambda: self.streams >= wanted or bool(self.problems))

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """Keep `clients` streams going; the answers must be those of before the block."""
        async with self._cluster.client() as client:
            expected = [await stream_text(client, q, self._tokens) for q in self._questions]

            async def ask() -> None:
                while not self._ending:
                    number = next(self._numbers) % len(expected)
                    try:
                        text = await stream_text(client, self._questions[number], self._tokens)
                    except Exception as error:
                        self.problems.append(f"{type(error).__name__}: {error}")
                        return
                    if text != expected[number]:
                        self.problems.append(f"{text!r} where {expected[number]!r} was expected")
                    self.streams += 1

            tasks = [asyncio.create_task(ask()) for _ in range(clients)]
            try:
                yield
            finally:
                self._ending = True
                await asyncio.gather(*tasks)


@contextmanager
def pod_cluster(folder: Path, api: Api, namespace: str) -> Iterator[PodCluster]:
    """Give a cluster whose processes are killed afterwards."""
    cluster = PodCluster(folder, api, namespace)
    try:
        yield cluster
    finally:
        cluster.kill()


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
