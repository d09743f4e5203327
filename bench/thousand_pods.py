"""What the operator costs with 1,000 pods in 10 clusters, and with nothing to do.

The API server, the scheduler and the controllers are real; kwok plays the nodes, and nothing runs
in the pods: at their addresses, all of loopback, one program repeats the metrics of a real worker
and a real gateway. The operator is a process of its own, with rights everywhere and no election.
"""

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from kube.fake_nodes import FakeNodes
from programs import BENCH, MeasurementError, Program, Programs, cores, get_text, memory_mib

from epd.api.names import ControlMode
from epd.vocabulary import (
    API_GROUP,
    API_VERSION,
    API_VERSION_NAME,
    DEFAULT_PORTS,
    KIND,
    PLURAL,
    PortName,
)
from epd_operator import local_ports

CRDS = BENCH.parent / "crds"
NODES = 8
POD_RANGE = "127.64.0.0/16"
PATIENCE_S = 420.0
HOST = "127.0.0.1"
_CALLS = re.compile(r'^epd_operator_api_calls_total{.*verb="(\w+)".*} (\S+)', re.MULTILINE)


class Operator:
    """One operator process, and what it says of itself."""

    def __init__(self, programs: Programs, kubeconfig: Path) -> None:
        self._programs = programs
        self._port = local_ports.free_block(1, HOST)
        command: list[str | Path] = [sys.executable, "-m", "epd_operator"]
        command += ["--liveness-port=0", f"--metrics-port={self._port}"]
        command += [f"--kubeconfig={kubeconfig}"]
        self.program: Program = programs.start("operator", command, set().union(*cores()))
        self.program.wait_for(self._leads, "word that it leads")

    def stop(self) -> None:
        """End it."""
        self._programs.stop(self.program)
        local_ports.release(self._port, 1)

    def numbers(self) -> dict[str, float]:
        """Return its counters as they stand, and the processor time it has used."""
        text = get_text(f"http://{HOST}:{self._port}/metrics")
        passes = re.search(r"^epd_operator_passes_total (\S+)", text, re.MULTILINE)
        used = self.program.process.cpu_times()
        calls = dict.fromkeys(("get", "post", "patch", "delete"), 0.0)
        for verb, count in _CALLS.findall(text):
            calls[verb] += float(count)
        return {
            "at_s": time.monotonic(),
            "cpu_s": used.user + used.system,
            "passes": float(passes[1]) if passes else 0.0,
            "reads": calls.pop("get"),
            "writes": sum(calls.values()),
        }

    def over(self, seconds: float) -> dict[str, float]:
        """Return what it does in the next seconds."""
        before = self.numbers()
        time.sleep(seconds)
        return self.since(before)

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Return what it did since then."""
        after = self.numbers()
        did = {name: after[name] - value for name, value in before.items()}
        memory = memory_mib(self.program.pid)
        return {
            "seconds": did["at_s"],
            "cpu_s": did["cpu_s"],
            "cores": did["cpu_s"] / did["at_s"],
            "passes": did["passes"],
            "reads": did["reads"],
            "writes": did["writes"],
            "rss_mib": memory["rss"],
            "peak_rss_mib": memory["peak_rss"],
        }

    def _leads(self) -> bool:
        try:
            return "epd_operator_leading 1.0" in get_text(f"http://{HOST}:{self._port}/metrics")
        except httpx.TransportError:
            return False


def prepare(bed: FakeNodes, programs: Programs, said: Mapping[PortName, str]) -> None:
    """Make the bed know our kind of object, and pods say this at these ports."""
    command: list[str | Path] = [sys.executable, BENCH / "said.py"]
    for name, text in said.items():
        path = programs.folder / f"{name}.txt"
        path.write_text(text)
        command.append(f"{DEFAULT_PORTS[name]}={path}")
    program = programs.start("said", command, set().union(*cores()))
    program.wait_for(lambda: "answering" in program.log.read_text(), "answer")
    bed.add(NODES)
    bed.api.kubectl("apply", "--server-side", "-f", CRDS)
    bed.api.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", CRDS)


def idle(bed: FakeNodes, programs: Programs, seconds: float) -> dict[str, float]:
    """Return what an operator without clusters costs."""
    operator = Operator(programs, bed.api.kubeconfig)
    time.sleep(5)
    found = operator.over(seconds)
    operator.stop()
    return found


def measure(
    bed: FakeNodes,
    programs: Programs,
    mode: ControlMode,
    *,
    clusters: int,
    pods: int,
    steady_s: float,
) -> dict[str, Any]:
    """Make clusters, wait for them, watch them do nothing, start anew, and delete them."""
    namespace = bed.api.create_namespace("thousand")
    operator = Operator(programs, bed.api.kubeconfig)
    before = operator.numbers()
    for index in range(clusters):
        bed.api.call("POST", _path(namespace), _cluster(f"c{index}", pods, mode))
    _until(operator, lambda: _ready(bed, namespace) == clusters, "clusters are not Ready")
    first = operator.since(before)
    _rest(operator)
    steady = operator.over(steady_s)
    operator.stop()
    operator = Operator(programs, bed.api.kubeconfig)
    fresh = dict.fromkeys(before, 0.0) | {"at_s": time.monotonic()}
    _until(operator, lambda: operator.numbers()["passes"] >= clusters, "it makes no passes")
    restarted = operator.since(fresh)
    for index in range(clusters):
        bed.api.call("DELETE", f"{_path(namespace)}/c{index}")
    _until(operator, lambda: not _items(bed, namespace), "clusters are left")
    operator.stop()
    bed.api.delete_namespace(namespace)
    return {"mode": mode.value, "first": first, "steady": steady, "restarted": restarted}


def _rest(operator: Operator) -> None:
    """Wait until it writes nothing: events are told, and what the control loop first says."""
    written = -1.0
    while written != (written := operator.numbers()["writes"]):
        time.sleep(15)


def _cluster(name: str, pods: int, mode: ControlMode) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "simulated", "servedName": "simulated"},
            "engine": {"type": "Simulated"},
            "replicas": pods,
            "control": {"mode": mode.value},
        },
    }


def _ready(bed: FakeNodes, namespace: str) -> int:
    """Return how many clusters are Ready, with nothing left to change."""
    wanted = {("Ready", "True"), ("Reconciling", "False")}
    return sum(
        wanted <= {(each["type"], each["status"]) for each in status.get("conditions") or ()}
        for status in (item.get("status") or {} for item in _items(bed, namespace))
    )


def _items(bed: FakeNodes, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bed.api.client.get(_path(namespace)).text)["items"]
    return found


def _path(namespace: str) -> str:
    return f"/apis/{API_GROUP}/{API_VERSION_NAME}/namespaces/{namespace}/{PLURAL}"


def _until(operator: Operator, holds: Any, complaint: str) -> None:
    limit_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > limit_s or not operator.program.running:
            raise MeasurementError(f"{complaint}: {operator.program.last_line()}")
        time.sleep(0.25)
