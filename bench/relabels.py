"""How soon gateways place by a role label that was patched, on a real API server.

Pods here are objects of a real API server, and behind all of them is one real simulated worker.
A relabel is done when every gateway's `roster_version` has reached what the patch returned.
"""

import json
import random
import sys
import time
from http.client import HTTPConnection
from typing import Any

from kube.api import Api
from kube.control_plane import ControlPlane
from programs import MeasurementError, Program, Programs, cores, get_text, memory_mib
from statistic import distribution

from epd.vocabulary import (
    CLUSTER_LABEL,
    COMPONENT_LABEL,
    LLM_D_ROLE_LABEL,
    ROLE_LABEL,
    PortName,
    Role,
)
from epd_operator import local_ports

CLUSTER = "relabels"
ROLES = (Role.ENCODE, Role.PREFILL, Role.DECODE)
SEED = 20261121
PAUSE_S = 0.05
PATIENCE_S = 60.0
HOST = "127.0.0.1"
_MERGE = {"Content-Type": "application/merge-patch+json"}
_PODS_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}


class Gateway:
    """One gateway's admin address, over a connection that stays open."""

    def __init__(self, program: Program) -> None:
        self.program = program
        _, self.port = program.ports()
        self._connection = HTTPConnection(HOST, self.port, timeout=PATIENCE_S)

    def ask(self, path: str) -> Any:
        """Return the JSON at a path."""
        self._connection.request("GET", path)
        return json.loads(self._connection.getresponse().read())

    def follows(self, pods: int) -> bool:
        """Tell whether it knows so many pods, and all of them can take work."""
        workers = self.ask("/roster")["workers"]
        return len(workers) == pods and all(worker["healthy"] for worker in workers)

    def reach(self, version: int) -> None:
        """Return once it places by this version."""
        limit_s = time.monotonic() + PATIENCE_S
        while self.ask("/ready")["roster_version"] < version:
            if time.monotonic() > limit_s:
                raise MeasurementError(f"{self.program.name} does not follow the pods")


def measure(
    bed: ControlPlane, programs: Programs, pods: int, relabels: int, gateways: int = 2
) -> dict[str, Any]:
    """Relabel pods one after the other; return milliseconds of the patch and until all follow.

    `said` is what a worker's and a gateway's metrics looked like.
    """
    namespace = bed.api.create_namespace("relabels")
    port, metrics_port = _start_worker(programs)
    for index in range(pods):
        _create_pod(bed.api, namespace, f"pod-{index}", ROLES[index % len(ROLES)], port)
    config = bed.api.service_account(namespace, "gateway", rules=[_PODS_RULE])
    fleet = [_start_gateway(programs, f"gateway-{n}", namespace, config) for n in range(gateways)]
    for gateway in fleet:
        gateway.program.wait_for(lambda gateway=gateway: gateway.follows(pods), "ready fleet")
    draw = random.Random(SEED)
    samples = []
    for _ in range(relabels):
        name, role = f"pod-{draw.randrange(pods)}", draw.choice(ROLES)
        body = {"metadata": {"labels": {ROLE_LABEL: role, LLM_D_ROLE_LABEL: role}}}
        began_s = time.perf_counter()
        version = _patch(bed.api, f"{_path(namespace)}/{name}", body)
        patched_s = time.perf_counter()
        for gateway in fleet:
            gateway.reach(version)
        samples.append((patched_s - began_s, time.perf_counter() - began_s))
        time.sleep(PAUSE_S)
    peak_mib = max(memory_mib(gateway.program.pid)["peak_rss"] for gateway in fleet)
    said = {
        PortName.WORKER_METRICS: get_text(f"http://{HOST}:{metrics_port}/metrics"),
        PortName.GATEWAY_HTTP: get_text(f"http://{HOST}:{fleet[0].port}/metrics"),
    }
    programs.stop()
    local_ports.release(metrics_port, 1)
    bed.api.delete_namespace(namespace)
    patch_ms, done_ms = ([second * 1e3 for second in each] for each in zip(*samples, strict=True))
    return {
        "pods": pods,
        "gateways": gateways,
        "patch_ms": distribution(patch_ms),
        "followed_ms": distribution(done_ms),
        "gateway_peak_mib": peak_mib,
        "samples_ms": done_ms,
        "said": said,
    }


def _start_worker(programs: Programs) -> tuple[int, int]:
    """Start the worker; return its port and that of its metrics."""
    metrics_port = local_ports.free_block(1, HOST)
    command = [sys.executable, "-m", "epd_worker", "--name", "all", "--listen", "127.0.0.1:0"]
    command += ["--engine", "simulated", "--served-name", "simulated", "--exit-with-parent"]
    command += ["--metrics-listen", f"{HOST}:{metrics_port}"]
    port = programs.start("worker", command, set().union(*cores())).ports()[0]
    return port, metrics_port


def _start_gateway(programs: Programs, name: str, namespace: str, config: Any) -> Gateway:
    command = ["env", f"KUBECONFIG={config}", sys.executable, "-m", "epd_gateway"]
    command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--exit-with-parent"]
    command += ["--kubernetes-cluster", CLUSTER, "--namespace", namespace]
    return Gateway(programs.start(name, command, set().union(*cores())))


def _create_pod(api: Api, namespace: str, name: str, role: Role, port: int) -> None:
    """Make a pod that no scheduler takes, and report what a kubelet would."""
    labels = {CLUSTER_LABEL: CLUSTER, COMPONENT_LABEL: "worker", ROLE_LABEL: role.value}
    container = {"name": "worker", "image": "worker:1"}
    ports = [{"name": "grpc", "containerPort": port}]
    spec = {"schedulerName": "nobody", "containers": [{**container, "ports": ports}]}
    api.call("POST", _path(namespace), {"metadata": {"name": name, "labels": labels}, "spec": spec})
    ready = [{"type": "Ready", "status": "True"}]
    address = {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
    status = {"phase": "Running", "conditions": ready, **address}
    _patch(api, f"{_path(namespace)}/{name}/status", {"status": status})


def _patch(api: Api, path: str, body: object) -> int:
    """Merge into a pod; return its new resourceVersion."""
    return int(api.call("PATCH", path, body, headers=_MERGE)["metadata"]["resourceVersion"])


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"
