"""The cluster that `make demo` shows: installed, applied, and looked at through the API server."""

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from kube import host_environment
from kube.api import KubectlError
from kube.binaries import ROOT
from kube.node import Node
from kube.node_files import SHELL_IMAGE
from prometheus_client.parser import text_string_to_metric_families

from epd import telemetry
from epd.vocabulary import (
    CLUSTER_LABEL,
    COMPONENT_LABEL,
    DEFAULT_PORTS,
    LLM_D_ROLE_LABEL,
    ROLE_LABEL,
    PortName,
    Role,
)
from epd_cli.failures import CommandError

SYSTEM: Final = "epd-system"
NAMESPACE: Final = "demo"
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}
READY_TIMEOUT_S: Final = 420
OPERATOR_TIMEOUT: Final = "60s"
GATEWAY_PORT: Final = 8000
POLL_S: Final = 0.5

Counts = Mapping[tuple[str, str], float]
"""Work begun, by pod and stage."""


class DemoCluster:
    """One `EPDCluster` on a node.

    Attributes:
        name: Its name.
        base_url: Base of the OpenAI routes, once it is applied.
        key: An API key, likewise.
    """

    def __init__(self, node: Node, helm: Path, manifest: dict[str, Any]) -> None:
        """Plan to apply `manifest` on `node`."""
        self.name: str = manifest["metadata"]["name"]
        self.base_url = ""
        self.key = ""
        self._node = node
        self._helm = helm
        self._manifest = _at_home(manifest)

    def install(self) -> None:
        """Install the charts; return once the operator runs.

        Raises:
            CommandError: It does not.
        """
        for namespace in (SYSTEM, NAMESPACE):
            body = {"metadata": {"name": namespace, "labels": RESTRICTED}}
            self._node.api.call("POST", "/api/v1/namespaces", body)
            claims = {"apiVersion": "v1", "kind": "List"}
            claims["items"] = host_environment.claims(namespace)  # type: ignore[assignment]
            self._node.api.kubectl("apply", "-f", "-", manifest=claims)
        image, _, tag = SHELL_IMAGE.rpartition(":")
        values = {
            "replicas": 1,
            "image": {"repository": image, "tag": tag},
            "images": {"worker": SHELL_IMAGE, "gateway": SHELL_IMAGE},
            "extraEnv": host_environment.variables(),
            "extraVolumes": host_environment.volumes(),
            "extraVolumeMounts": host_environment.mounts(),
        }
        file = self._node.folder / "values.json"
        file.write_text(json.dumps(values))
        self._run_helm("install", "epd-crds", ROOT / "charts" / "epd-crds")
        self._run_helm("install", "epd", ROOT / "charts" / "epd", "--values", file)
        kubectl = self._node.api.kubectl
        try:
            kubectl(
                "rollout", "status", "deployment", "-n", SYSTEM, f"--timeout={OPERATOR_TIMEOUT}"
            )
        except KubectlError as error:
            said = kubectl("logs", "deployment/epd-operator", "-n", SYSTEM, "--tail=5")
            raise CommandError(f"the operator does not get ready: {error}\n{said}") from None
        print("  the operator runs, under the restricted Pod Security Standard")

    def _run_helm(self, *arguments: str | Path) -> None:
        command = [self._helm, *arguments, "--namespace", SYSTEM]
        command += ["--kubeconfig", self._node.api.kubeconfig]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(f"helm {arguments[0]}: {done.stderr.strip()}")

    async def apply(self) -> None:
        """Apply the manifest; return once it is Ready.

        Raises:
            CommandError: It does not get ready in time.
        """
        began_s = time.monotonic()
        kubectl = self._node.api.kubectl
        kubectl("apply", "-n", NAMESPACE, "-f", "-", manifest=self._manifest)
        said = ""
        while True:
            conditions = {each["type"]: each for each in self.status().get("conditions") or ()}
            ready = conditions.get("Ready", {})
            if ready.get("status") == "True":
                break
            if (message := ready.get("message", "")) != said:
                said = message
                print(f"  {time.monotonic() - began_s:5.1f} s  {message}", flush=True)
            if time.monotonic() - began_s > READY_TIMEOUT_S:
                raise CommandError(f"not ready after {READY_TIMEOUT_S} s: {said}")
            await asyncio.sleep(POLL_S)
        print(f"  {time.monotonic() - began_s:5.1f} s  Ready: {ready['message']}")
        for line in kubectl("get", "epd,pods", "-n", NAMESPACE, "-L", ROLE_LABEL).splitlines():
            print(f"  {line}")
        service = f"/api/v1/namespaces/{NAMESPACE}/services/{self.name}-gateway"
        address = self._node.api.call("GET", service)["spec"]["clusterIP"]
        self.base_url = f"http://127.0.0.1:{self._node.forward(address, GATEWAY_PORT)}/v1"
        secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/{self.name}-api-keys"
        keys = self._node.api.call("GET", secret)["data"]["keys"]
        self.key = base64.b64decode(keys).decode().split()[0]

    def status(self) -> dict[str, Any]:
        """Return the status of the `EPDCluster`."""
        path = f"/apis/epd.dev/v1alpha1/namespaces/{NAMESPACE}/epdclusters/{self.name}"
        return dict(self._node.api.call("GET", path).get("status") or {})

    def _pods(self) -> list[dict[str, Any]]:
        labels = f"{CLUSTER_LABEL}={self.name},{COMPONENT_LABEL}=worker"
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        pods = self._node.api.call("GET", path, params={"labelSelector": labels})["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def roles(self) -> dict[str, Role]:
        """Return the role of each pod, by its label."""
        return {
            pod["metadata"]["name"]: Role(pod["metadata"]["labels"][ROLE_LABEL])
            for pod in self._pods()
        }

    def containers(self) -> dict[str, tuple[str, int]]:
        """Return each pod's container and how often it was started again."""
        found = {}
        for pod in self._pods():
            (container,) = pod["status"]["containerStatuses"]
            found[pod["metadata"]["name"]] = container["containerID"], container["restartCount"]
        return found

    async def started(self) -> Counts:
        """Return the work that each pod has begun, by stage, as its own metrics say."""
        counts: dict[tuple[str, str], float] = {}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            for pod in self._pods():
                port = DEFAULT_PORTS[PortName.WORKER_METRICS]
                port = self._node.forward(pod["status"]["podIP"], port)
                text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
                for family in text_string_to_metric_families(text):
                    for sample in family.samples:
                        if sample.name == telemetry.WORKER_STARTED.name:
                            labels = sample.labels
                            counts[labels["worker"], labels["stage"]] = sample.value
        return counts

    def relabel(self, pod: str, role: Role) -> None:
        """Change a pod's role, as a user would."""
        labels = [f"{ROLE_LABEL}={role}", f"{LLM_D_ROLE_LABEL}={role}"]
        self._node.api.kubectl("label", "pod", pod, "-n", NAMESPACE, "--overwrite", *labels)


def _at_home(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with this machine's Python and checkout in its pods."""
    spec = {**manifest["spec"]}
    folder = ROOT / spec["model"]["source"]
    if folder.is_dir():
        spec["model"] = {**spec["model"], "source": str(folder)}
    spec["podTemplate"] = host_environment.pod_template("worker")
    gateway = spec.get("gateway") or {}
    spec["gateway"] = {**gateway, "podTemplate": host_environment.pod_template("gateway")}
    return {**manifest, "spec": spec}
