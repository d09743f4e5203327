"""Command lines of the processes of a cluster on this machine; pure functions of the manifest."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from epd.api.names import EngineType
from epd.api.v1alpha1 import EPDCluster, EPDClusterSpec
from epd_operator.gateway_settings import gateway_settings
from epd_operator.local_ports import WorkerPorts

WORKER_HOST: Final = "127.0.0.1"
DECISION_FILE: Final = "control.json"
"""The control loop's last pass, beside the roster."""

GATEWAY_DRAIN_S: Final = 3.0
"""How long streams may go on after Ctrl-C."""

GPU_MEMORY_SHARE: Final = 0.9
"""What vLLM takes of a GPU by default, here shared by all workers on it."""

_GPU_MEMORY_FLAGS: Final = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
_PARALLEL_FLAGS: Final = ("--tensor-parallel-size", "-tp")


@dataclass(frozen=True, slots=True)
class GpuShare:
    """The GPUs of one worker, and with how many workers (itself included) it shares them.

    No GPUs: the machine has none, or the engine needs none.
    """

    gpus: tuple[str, ...] = ()
    sharers: int = 1

    @property
    def environment(self) -> Mapping[str, str]:
        """What the worker's environment must say."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one process: its command, and what it adds to our environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def pod_names(cluster: EPDCluster) -> list[str]:
    """Return the names of the workers, in the order in which roles are dealt out."""
    return [f"{cluster.metadata.name}-{index}" for index in range(cluster.spec.replicas)]


def gpu_shares(spec: EPDClusterSpec, gpus: Sequence[str]) -> list[GpuShare]:
    """Deal the GPUs of this machine out to the workers, evenly and in order.

    A worker takes as many as its tensor-parallel size says; workers share where there are fewer
    GPUs than that takes.
    """
    if spec.engine.type is not EngineType.VLLM or not gpus:
        return [GpuShare()] * spec.replicas
    width = min(int(_value_of(spec.engine.args, _PARALLEL_FLAGS) or 1), len(gpus))
    groups = [tuple(gpus[i : i + width]) for i in range(0, len(gpus) - width + 1, width)]
    return [
        GpuShare(
            groups[index % len(groups)], len(range(index % len(groups), spec.replicas, len(groups)))
        )
        for index in range(spec.replicas)
    ]


def worker_launch(
    cluster: EPDCluster,
    name: str,
    ports: WorkerPorts,
    share: GpuShare = GpuShare(),
    fault_file: Path | None = None,
) -> Launch:
    """Return how to start one worker. All are alike: a role is no part of it.

    Args:
        cluster: The manifest.
        name: The worker's.
        ports: Its ports.
        share: Its GPUs.
        fault_file: Where `epd fault lossy-handoff` leaves its orders; None: nowhere.
    """
    spec = cluster.spec
    command = [sys.executable, "-m", "epd_worker", "--name", name]
    command += ["--listen", f"{WORKER_HOST}:{ports.grpc}", "--exit-with-parent"]
    command += ["--metrics-listen", f"{WORKER_HOST}:{ports.metrics}"]
    command += ["--served-name", spec.model.served_name]
    if fault_file is not None:
        command += ["--fault-file", str(fault_file)]
    if spec.engine.type is EngineType.SIMULATED:
        command += ["--engine", "simulated"]
        curves = spec.engine.simulated and spec.engine.simulated.cost_curves_file
        if curves:
            command += ["--cost-curves", curves]
        return Launch(tuple(command))
    command += ["--engine", "vllm", "--model", spec.model.source]
    command += ["--transport", spec.transport.type, "--side-channel-host", WORKER_HOST]
    command += ["--kv-side-channel-port", str(ports.kv), "--ec-side-channel-port", str(ports.ec)]
    engine_args = [*spec.engine.args]
    if spec.model.revision:
        engine_args += ["--revision", spec.model.revision]
    if share.sharers > 1 and not any(_has(engine_args, flag) for flag in _GPU_MEMORY_FLAGS):
        engine_args.append(f"--gpu-memory-utilization={GPU_MEMORY_SHARE / share.sharers:.2f}")
    return Launch((*command, "--", *engine_args), share.environment)


def gateway_launch(cluster: EPDCluster, listen: str, admin_listen: str, roster: Path) -> Launch:
    """Return how to start the gateway; both addresses are HOST:PORT."""
    command = [sys.executable, "-m", "epd_gateway", "--listen", listen]
    command += ["--admin-listen", admin_listen, "--roster-file", str(roster)]
    command += ["--decision-file", str(roster.with_name(DECISION_FILE))]
    settings = {"listen.stop_grace_s": GATEWAY_DRAIN_S, **gateway_settings(cluster.spec)}
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    return Launch((*command, "--exit-with-parent"))


def local_folder(source: str) -> Path | None:
    """Return the folder that a model source names; None if it names a model on the hub.

    A hub name is one word or two with a slash between; whatever exists here is a folder.
    """
    path = Path(source).expanduser()
    names_a_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    return path if names_a_path or path.exists() else None


def _has(args: Sequence[str], flag: str) -> bool:
    return any(arg.partition("=")[0].replace("_", "-") == flag for arg in args)


def _value_of(args: Sequence[str], flags: Sequence[str]) -> str | None:
    """Return the value of the last of `flags` among engine arguments."""
    value = None
    for index, arg in enumerate(args):
        flag, equals, rest = arg.partition("=")
        if flag.replace("_", "-") in flags:
            value = rest if equals else next(iter(args[index + 1 : index + 2]), None)
    return value
