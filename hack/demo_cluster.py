"""The cluster that `make demo` shows: installed, applied, and looked at through the API server."""

import asyncio
import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from demo_reach import Reach
from kube import host_environment
from kube.api import KubectlError
from kube.binaries import ROOT
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
OPERATOR_TIMEOUT: Final = "180s"
GATEWAY_PORT: Final = 8000
POLL_S: Final = 0.5

Counts = Mapping[tuple[str, str], float]
"""Work begun, by pod and stage."""


class DemoCluster:
    """One `EPDCluster` on a Kubernetes.

    Attributes:
        name: Its name.
        base_url: Base of the OpenAI routes, once it is applied.
        key: An API key, likewise.
    """

    def __init__(
        self, reach: Reach, manifest: dict[str, Any], values_file: Path | None = None
    ) -> None:
        """Plan to apply `manifest` on the cluster of `reach`.

        Where pods cannot have our files in them, their images come from `values_file`, values of
        the chart.
        """
        self.name: str = manifest["metadata"]["name"]
        self.base_url = ""
        self.key = ""
        self._reach = reach
        self._manifest = _at_home(manifest) if reach.has_our_files else manifest
        self._values_file = values_file
        self._made: list[tuple[str, str]] = []
        if not reach.has_our_files and (ROOT / manifest["spec"]["model"]["source"]).is_dir():
            raise CommandError(
                f"the model of {self.name} is a folder of this machine, which pods of yours do not "
                "have: name another manifest, such as FILE=examples/simulated.yaml"
            )

    def install(self) -> None:
        """Install the charts, as far as they are not there; return once the operator runs.

        Raises:
            CommandError: It does not, or somebody else has a namespace of that name.
        """
        self._make_namespace(NAMESPACE)
        if self._is_installed("epd"):
            print(f"  the operator in {SYSTEM} is used as it is")
            return
        self._make_namespace(SYSTEM)
        if not self._is_installed("epd-crds"):
            self._run_helm("install", "epd-crds", str(ROOT / "charts" / "epd-crds"))
        values = ["--values", str(self._values_file)] if self._values_file else []
        with tempfile.NamedTemporaryFile("w", suffix=".json") as ours:
            json.dump(_our_values() if self._reach.has_our_files else {}, ours)
            ours.flush()
            chart = str(ROOT / "charts" / "epd")
            self._run_helm("install", "epd", chart, "--values", ours.name, *values)
        operator = "deployment/epd-operator"
        rollout = ("rollout", "status", operator, f"--timeout={OPERATOR_TIMEOUT}")
        try:
            self._reach.kubectl(*rollout, "-n", SYSTEM)
        except KubectlError as error:
            said = self._reach.kubectl("logs", operator, "-n", SYSTEM, "--tail=5")
            raise CommandError(f"the operator does not get ready: {error}\n{said}") from None
        print("  the operator runs, under the restricted Pod Security Standard")

    def remove(self) -> None:
        """Remove what `install` and `apply` made, but for the kind, which its chart keeps."""
        kind = self._reach.kubectl("get", "crd", "epdclusters.epd.dev", "--ignore-not-found")
        if kind and ("namespace", NAMESPACE) in self._made:
            # The cluster first: while its operator is there to end it.
            found = ("delete", "epdclusters", "--all", "-n", NAMESPACE, "--timeout=120s")
            self._reach.kubectl(*found)
        for what, name in reversed(self._made):
            if what == "release":
                self._run_helm("uninstall", name)
            else:
                self._reach.kubectl("delete", what, name, "--ignore-not-found", "--timeout=120s")

    def _make_namespace(self, name: str) -> None:
        """Make a namespace for `restricted` pods.

        That of the charts may be there already; that of the cluster may not.
        """
        there = self._reach.kubectl("get", "namespace", name, "--ignore-not-found")
        if there and name == NAMESPACE:
            raise CommandError(f"there is a namespace {name} already: remove it first")
        claims = host_environment.claims(name) if self._reach.has_our_files else []
        volumes = (each for each in claims if each["kind"] == "PersistentVolume")
        # A volume goes when its claim is gone, and that goes with the namespace.
        self._made += (("persistentvolume", each["metadata"]["name"]) for each in volumes)
        if not there:
            self._made.append(("namespace", name))
            metadata = {"name": name, "labels": RESTRICTED}
            self._apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        if claims:
            self._apply({"apiVersion": "v1", "kind": "List", "items": claims})

    def _apply(self, manifest: dict[str, Any], *arguments: str) -> None:
        self._reach.kubectl("apply", *arguments, "-f", "-", manifest=manifest)

    def _is_installed(self, release: str) -> bool:
        command = [*self._reach.helm, "status", release, "--namespace", SYSTEM]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _run_helm(self, verb: str, release: str, *arguments: str) -> None:
        command = [*self._reach.helm, verb, release, *arguments, "--namespace", SYSTEM]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(f"helm {verb} {release}: {done.stderr.strip()}")
        if verb == "install":
            self._made.append(("release", release))

    async def apply(self) -> None:
        """Apply the manifest; return once it is Ready.

        Raises:
            CommandError: It does not get ready in time.
        """
        began_s = time.monotonic()
        self._apply(self._manifest, "-n", NAMESPACE)
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
        shown = self._reach.kubectl("get", "epd,pods", "-n", NAMESPACE, "-L", ROLE_LABEL)
        for line in shown.splitlines():
            print(f"  {line}")
        port = self._manifest["spec"].get("gateway", {}).get("port", GATEWAY_PORT)
        port = self._reach.service_port(NAMESPACE, f"{self.name}-gateway", port)
        self.base_url = f"http://127.0.0.1:{port}/v1"
        secret = self._reach.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{self.name}-api-keys")
        self.key = base64.b64decode(secret["data"]["keys"]).decode().split()[0]

    def status(self) -> dict[str, Any]:
        """Return the status of the `EPDCluster`."""
        path = f"/apis/epd.dev/v1alpha1/namespaces/{NAMESPACE}/epdclusters/{self.name}"
        return dict(self._reach.get(path).get("status") or {})

    def _pods(self) -> list[dict[str, Any]]:
        labels = f"{CLUSTER_LABEL}={self.name},{COMPONENT_LABEL}=worker"
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        pods = self._reach.get(path, labelSelector=labels)["items"]
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
        for pod in self.roles():
            for family in text_string_to_metric_families(await self._metrics_of(pod)):
                for sample in family.samples:
                    if sample.name == telemetry.WORKER_STARTED.name:
                        labels = sample.labels
                        counts[labels["worker"], labels["stage"]] = sample.value
        return counts

    async def _metrics_of(self, pod: str) -> str:
        """Return what a pod exports; the API server asks it for us."""
        name = f"{pod}:{DEFAULT_PORTS[PortName.WORKER_METRICS]}"
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/proxy/metrics"
        return await asyncio.to_thread(self._reach.kubectl, "get", "--raw", path)

    def relabel(self, pod: str, role: Role) -> None:
        """Change a pod's role, as a user would."""
        labels = [f"{ROLE_LABEL}={role}", f"{LLM_D_ROLE_LABEL}={role}"]
        self._reach.kubectl("label", "pod", pod, "-n", NAMESPACE, "--overwrite", *labels)


def _our_values() -> dict[str, Any]:
    """Return values of the chart that bring our files into pods."""
    image, _, tag = SHELL_IMAGE.rpartition(":")
    return {
        "replicas": 1,
        "image": {"repository": image, "tag": tag},
        "images": {"worker": SHELL_IMAGE, "gateway": SHELL_IMAGE},
        "extraEnv": host_environment.variables(),
        "extraVolumes": host_environment.volumes(),
        "extraVolumeMounts": host_environment.mounts(),
    }


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
