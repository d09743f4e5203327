"""A simulated cluster, an operator on a real control plane, and Prometheus over both."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from gen_monitoring import RULES
from kube.control_plane import ControlPlane

from epd_operator import local_ports
from epd_operator.local_state import RunningCluster, StateDirectory
from monitoring.live.prometheus import PrometheusServer, Target, prometheus

ROOT: Final = Path(__file__).resolve().parents[3]
PATIENCE_S: Final = 120.0
HOST: Final = "127.0.0.1"
NAME: Final = "watched"
CURVES: Final = "time_scale: 2.0\n"


@dataclass(frozen=True, slots=True)
class Watched:
    """A cluster that runs, and who watches it."""

    cluster: RunningCluster
    state: StateDirectory
    prometheus: PrometheusServer

    def targets(self, *more: Target) -> None:
        """Have all programs of the cluster scraped, and more."""
        labels = {"namespace": "local", "epd_dev_cluster": NAME}
        gateway = self.cluster.gateway_url.removeprefix("http://")
        control = self.cluster.control_metrics_url.removeprefix("http://").partition("/")[0]
        workers = (pod.address.rpartition(":") for pod in self.cluster.pods)
        addresses = [gateway, control, *(f"{host}:{int(port) + 1}" for host, _, port in workers)]
        own = [Target(address, labels) for address in addresses if address]
        self.prometheus.set_targets([*own, *more])


def manifest(curves: Path, **spec: Any) -> dict[str, Any]:
    """Return an EPDCluster of six simulated workers, changed by `spec`."""
    return {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"source": "simulated", "servedName": "simulated"},
            "engine": {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}},
            "replicas": 6,
            "method": "E-P-D",
            "slo": {"ttftMilliseconds": 1000, "tpotMilliseconds": 100},
            "control": {"mode": "Active", "intervalSeconds": 1, "cooldownSeconds": 3},
            **spec,
        },
    }


@contextmanager
def watched_cluster(
    folder: Path,
    *,
    curves_text: str = CURVES,
    rules: Path = RULES,
    alertmanagers: tuple[str, ...] = (),
    **spec: Any,
) -> Iterator[Watched]:
    """Run a cluster and a Prometheus with our rules, in an empty folder.

    Args:
        folder: For all files.
        curves_text: What its engine pretends, as YAML.
        rules: The rules, ours or changed ones.
        alertmanagers: HOST:PORTs that are told of alerts.
        spec: Changes of the cluster's spec.
    """
    curves = folder / "curves.yaml"
    curves.write_text(curves_text)
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(manifest(curves, **spec)))
    state = StateDirectory(folder / "state")
    with ExitStack() as stack:
        server = stack.enter_context(prometheus(folder / "prometheus", [rules], alertmanagers))
        stack.enter_context(_up(file, state, folder / "up.log"))
        watched = Watched(state.read(), state, server)
        watched.targets()
        yield watched


@contextmanager
def _up(file: Path, state: StateDirectory, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "epd_cli", "up", "-f", str(file), "--port", "0"]
    command += ["--state-dir", str(state.path)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or " is ready after " in log.read_text())
        if process.poll() is not None:
            raise RuntimeError(f"the cluster did not start:\n{log.read_text()}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def operator(plane: ControlPlane, folder: Path) -> Iterator[Target]:
    """Run an operator over one cluster whose pods have no node; return where its metrics are."""
    plane.api.kubectl("apply", "--server-side", "-f", ROOT / "crds")
    plane.api.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", ROOT / "crds")
    spec = {"model": {"source": "m", "servedName": "m"}, "engine": {"type": "Simulated"}}
    cluster = manifest(Path("unused"), **spec, replicas=3, control={"mode": "Off"})
    namespace = plane.api.create_namespace()
    plane.api.kubectl("apply", "-n", namespace, "-f", "-", manifest=cluster)
    port = local_ports.free_block(1, HOST)
    log = (folder / "operator.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "epd_operator", "--liveness-port=0"),
            *(f"--metrics-port={port}", f"--namespace={namespace}"),
        ],
        stderr=log,
        env={**os.environ, "KUBECONFIG": str(plane.api.kubeconfig)},
    )
    try:
        yield Target(f"{HOST}:{port}", {"namespace": "epd-system"})
    finally:
        process.kill()
        process.wait()
        log.close()
        plane.api.kubectl("delete", "epdclusters", "--all", "-n", namespace, "--wait=false")
        local_ports.release(port, 1)


def until(holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: It did not become true.
    """
    deadline_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError("still not so")
        time.sleep(0.2)


def last_pass(state: StateDirectory) -> dict[str, Any]:
    """Return the control loop's last pass."""
    return dict(json.loads(state.control_file.read_bytes()))
