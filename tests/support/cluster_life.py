"""A cluster on a real node: its operator is a pod, its clients ask all the time."""

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
from charts import OPERATOR
from kube import binaries, host_environment
from kube.node import Node
from kube.node_files import NODE, SHELL_IMAGE
from running_operator import Clusters, until
from steady_traffic import SteadyTraffic

from epd.vocabulary import LLM_D_ROLE_LABEL, ROLE_LABEL, Role
from epd_operator.objects import Manifest

GATEWAY_PORT = 8000


@dataclass(frozen=True)
class OperatorPod:
    """The chart's operator in a pod.

    Attributes:
        node: Where it runs.
        namespace: Where it is, and what it looks after.
    """

    node: Node
    namespace: str

    @property
    def values(self) -> dict[str, Any]:
        """What its chart is told."""
        image, _, tag = SHELL_IMAGE.rpartition(":")
        return {
            "replicas": 1,
            "watch": {"namespaces": [self.namespace]},
            "rbac": {"aggregateRoles": False},
            "image": {"repository": image, "tag": tag},
            "images": {"worker": SHELL_IMAGE, "gateway": SHELL_IMAGE},
            "extraEnv": host_environment.variables(),
            "extraVolumes": host_environment.volumes(),
            "extraVolumeMounts": host_environment.mounts(),
        }

    @property
    def chart(self) -> helm.Config:
        """Its releases, to be entered."""
        return helm.Config(kubeconfig_path=str(self.node.api.kubeconfig), namespace=self.namespace)

    def upgrade(self, **values: Any) -> None:
        """Upgrade its chart; return once a new pod works and the old one is on its way out."""
        with self.chart as config:
            config.upgrade(str(OPERATOR), "epd", {**self.values, **values})
        self.rolled_out()

    def rolled_out(self) -> None:
        """Return once the pod that the chart asks for is ready."""
        rollout = ("rollout", "status", "deployment/epd-operator", "--timeout=120s")
        self.node.api.kubectl(*rollout, "-n", self.namespace)


@contextmanager
def operator_pod(node: Node, namespace: str) -> Iterator[OperatorPod]:
    """Have the chart's operator look after one namespace, from a pod in it."""
    pod = OperatorPod(node, namespace)
    with pod.chart as config:
        config.install(str(OPERATOR), "epd", pod.values)
        pod.rolled_out()
        try:
            yield pod
        finally:
            logs = ("logs", "deployment/epd-operator", "-n", namespace, "--tail=200")
            print(node.api.kubectl(*logs))  # seen where a test has failed
            config.uninstall("epd")


def at_home(**spec: Any) -> dict[str, Any]:
    """Return a spec whose workers and gateways have our environment in them."""
    return {
        "podTemplate": host_environment.pod_template("worker"),
        "gateway": {"podTemplate": host_environment.pod_template("gateway")},
        **spec,
    }


def question(model: str, text: str, *images: str, max_tokens: int = 40) -> dict[str, Any]:
    """Return a streamed request; `images` are URLs."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    parts += ({"type": "image_url", "image_url": {"url": url}} for url in images)
    common = {"model": model, "stream": True, "max_tokens": max_tokens, "temperature": 0}
    return {**common, "seed": 1, "messages": [{"role": "user", "content": parts}]}


@asynccontextmanager
async def client_of(node: Node, clusters: Clusters) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the cluster's Service, with its key; without one it is refused."""
    core = f"/api/v1/namespaces/{clusters.namespace}"
    service = clusters.api.call("GET", f"{core}/services/demo-gateway")
    secret = clusters.api.call("GET", f"{core}/secrets/demo-api-keys")
    key = base64.b64decode(secret["data"]["keys"]).decode().strip()
    port = node.forward(service["spec"]["clusterIP"], GATEWAY_PORT)
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=120) as client:
        refused = await client.post("/v1/chat/completions", json=question("any", "hi"))
        assert refused.status_code == 401
        client.headers["authorization"] = f"Bearer {key}"
        yield client


@dataclass
class Life:
    """What is done to a cluster under traffic; every phase ends with a settled cluster.

    Attributes:
        node: Where it lives.
        clusters: The namespace of it; the cluster is called `demo`.
        traffic: The clients.
        answers: How many streams must end after a phase has settled, before the next begins.
        patience_s: How long a phase may take to settle.
    """

    node: Node
    clusters: Clusters
    traffic: SteadyTraffic
    answers: int = 8
    patience_s: float = 120

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[None]:
        """Mark a phase; return once it has settled, and clients were answered since."""
        self.traffic.phase = name
        yield
        await self.clusters.settled(patience_s=self.patience_s)
        await self.traffic.more(self.answers)
        print(f"{name}: {self.traffic.answered[name]} streams, {dict(self.clusters.roles())}")
        assert self.traffic.faults == [], self.traffic.faults[:3]

    async def scaled(self, replicas: int) -> None:
        """Change the number of pods, as `kubectl scale` does."""
        kubectl, here = self.node.api.kubectl, ("-n", self.clusters.namespace)
        kubectl("scale", "epd/demo", f"--replicas={replicas}", *here)
        await until(lambda: len(self.clusters.pods()) == replicas, patience_s=self.patience_s)

    def relabelled(self, before: Role, after: Role) -> None:
        """Change the role of one pod, as `kubectl label` does."""
        pod = next(
            pod for pod in self.clusters.pods() if pod["metadata"]["labels"][ROLE_LABEL] == before
        )
        labels = (f"{ROLE_LABEL}={after}", f"{LLM_D_ROLE_LABEL}={after}")
        name, here = pod["metadata"]["name"], ("-n", self.clusters.namespace)
        self.node.api.kubectl("label", "pod", name, *labels, "--overwrite", *here)

    async def upgraded(self, **spec: Any) -> None:
        """Change what pods are made of; return once every worker is another."""
        before = self._uids(self.clusters.pods())
        self.clusters.edit(**spec)
        await until(
            lambda: not before & self._uids(self.clusters.pods()), patience_s=4 * self.patience_s
        )

    async def top(self) -> str:
        """Return what `kubectl epd top` shows, by a forward to a gateway's own loopback."""
        kubectl = binaries.find("kubectl")["kubectl"].parent
        bin_folder = Path(sys.executable).parent
        path = os.pathsep.join([str(kubectl), str(bin_folder), os.environ["PATH"]])
        shown = await asyncio.create_subprocess_exec(
            *("kubectl", "epd", "top", "demo", "--once", "-n", self.clusters.namespace),
            env={**os.environ, "PATH": path, "KUBECONFIG": str(self.node.api.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        text, complaint = await shown.communicate()
        assert shown.returncode == 0, complaint.decode()
        return text.decode()

    async def aimed(self, ttft_ms: int) -> None:
        """Return once the gateway goes by this objective; kubelet takes a minute to bring it."""
        line = f'epd_slo_limit_seconds{{objective="ttft"}} {ttft_ms / 1e3}'

        def is_so(metrics: httpx.Response) -> bool:
            return line in metrics.text.splitlines()

        await self._answered("/metrics", is_so)

    def add_key(self, key: str) -> None:
        """Let whoever shows this key use the API, beside those who may already."""
        path = f"/api/v1/namespaces/{self.clusters.namespace}/secrets/demo-api-keys"
        before = base64.b64decode(self.node.api.call("GET", path)["data"]["keys"]).decode()
        self.clusters.merge(path, {"stringData": {"keys": f"{before.strip()}\n{key}\n"}})

    async def accepted(self, key: str) -> None:
        """Return once gateways know a key; kubelet brings the Secret."""
        shown = {"authorization": f"Bearer {key}"}
        await self._answered("/v1/models", lambda answer: answer.is_success, shown)

    async def _answered(
        self,
        path: str,
        is_right: Callable[[httpx.Response], bool],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        async with asyncio.timeout(2 * self.patience_s):
            while True:
                if is_right(await self.traffic.client.get(path, headers=headers)):
                    return
                await asyncio.sleep(0.5)

    async def gateways_upgraded(self, **gateway: Any) -> None:
        """Change what gateways are made of; return once the last of the old ones has ended."""
        before = self.clusters.pods(component="gateway")
        paths = [self.clusters.pod_path(pod) for pod in before]
        self.clusters.edit(gateway=gateway)
        get = self.node.api.client.get
        await until(
            lambda: all(get(path).status_code == httpx.codes.NOT_FOUND for path in paths),
            patience_s=2 * self.patience_s,
        )

    @staticmethod
    def _uids(pods: Sequence[Manifest]) -> set[str]:
        return {pod["metadata"]["uid"] for pod in pods}

    async def evicted(self) -> None:
        """Evict a worker, as whoever drains a node does; a second one must wait for the first."""
        first, second, *_ = self.clusters.pods()
        await until(lambda: self._evict(first) == httpx.codes.CREATED)
        assert self._evict(second) == httpx.codes.TOO_MANY_REQUESTS
        uid = first["metadata"]["uid"]
        await until(lambda: uid not in self._uids(self.clusters.pods()))

    def _evict(self, pod: Manifest) -> int:
        name = {"name": pod["metadata"]["name"], "namespace": self.clusters.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name}
        path = f"{self.clusters.pod_path(pod)}/eviction"
        return self.node.api.client.post(path, json=eviction).status_code

    async def node_agent_and_api_server_restarted(self) -> None:
        """End both without a warning; return once both are back and the node is Ready."""
        before = self.node.process_of("kubelet")
        self.node.crash("kubelet")
        self.node.crash("kube-apiserver")
        await until(lambda: self.node.process_of("kubelet") not in (None, before))
        await until(self.node.api.is_ready)
        node = f"/api/v1/nodes/{NODE}"
        await until(lambda: "True" in self._ready_of(self.node.api.call("GET", node)))

    @staticmethod
    def _ready_of(node: Manifest) -> list[str]:
        return [each["status"] for each in node["status"]["conditions"] if each["type"] == "Ready"]

    async def deleted(self) -> None:
        """Delete the cluster while streams run; they end as they should, and nothing is left."""
        self.traffic.phase = "deleted"
        await self.traffic.more(1)
        self.clusters.delete()
        await self.traffic.end()
        assert self.traffic.faults == [], self.traffic.faults[:3]
        await until(lambda: self.clusters.get() is None, patience_s=120)
        await until(lambda: not self.clusters.pods())
