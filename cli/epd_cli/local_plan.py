"""Decides how a manifest runs on this machine, and refuses what cannot run before it starts."""

import importlib.util
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from epd.api import EngineType, EPDCluster, load_cluster
from epd.api.model import is_mounted
from epd_cli.failures import CommandError, UsageError
from epd_operator import local_ports, local_state
from epd_operator.local_commands import local_folder
from epd_operator.local_gpus import visible_gpus
from epd_operator.local_state import StateDirectory

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
TINY_PREFIX: Final = "tiny-"


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster that can start here.

    Attributes:
        cluster: The manifest.
        listen: HOST:PORT of the gateway.
        directory: Its state directory, not claimed yet.
        keep_logs: Whether the user said where logs go, and so wants them afterwards.
        gpus: The GPUs that workers may use.
        notes: What of the manifest has no meaning here, one sentence each.
    """

    cluster: EPDCluster
    listen: str
    directory: StateDirectory
    keep_logs: bool
    gpus: tuple[str, ...]
    notes: tuple[str, ...]


def make_plan(file: str, *, host: str, port: int | None, state_dir: str | None = None) -> Plan:
    """Return how to run the manifest in `file`.

    Raises:
        ClusterError: The manifest cannot be used anywhere.
        UsageError: It cannot be used here.
        CommandError: Something it needs is missing or taken.
    """
    cluster = load_cluster(Path(file))
    gpus = visible_gpus(os.environ) if cluster.spec.engine.type is EngineType.VLLM else ()
    return Plan(
        cluster=cluster,
        listen=_listen_address(host, cluster.spec.gateway.port if port is None else port),
        directory=_directory(cluster, state_dir),
        keep_logs=state_dir is not None,
        gpus=gpus,
        notes=_notes(cluster, host),
    )


def check_engine(cluster: EPDCluster) -> None:
    """Refuse an engine that is not installed, or whose files are missing.

    Raises:
        CommandError: It is; the message says what to do.
    """
    spec = cluster.spec
    if spec.engine.type is not EngineType.VLLM:
        curves = spec.engine.simulated and spec.engine.simulated.cost_curves_file
        if curves and not Path(curves).is_file():
            raise CommandError(
                f"spec.engine.simulated.costCurvesFile: there is no file {curves} here"
            )
        return
    if importlib.util.find_spec("vllm") is None:
        raise CommandError(
            "engine.type VLLM needs vLLM, which is not installed in this Python: run `make env`, "
            "or set engine.type: Simulated"
        )


def check_model(cluster: EPDCluster) -> None:
    """Refuse a model folder in which there is no model, and a source that Kubernetes would mount.

    Raises:
        CommandError: There is none; the message says what makes it.
    """
    spec = cluster.spec
    if spec.engine.type is not EngineType.VLLM:
        return
    if is_mounted(spec.model.source):
        raise CommandError(
            f"spec.model.source: {spec.model.source} is mounted by Kubernetes, which is not here; "
            "give a folder or a name on the hub"
        )
    folder = local_folder(spec.model.source)
    if folder is not None and not (folder / "config.json").is_file():
        raise CommandError(
            f"spec.model.source: {folder} holds no model (no config.json); {_way_to(folder)}"
        )


def tiny_kind(cluster: EPDCluster) -> tuple[Path, str] | None:
    """Return folder and kind of the tiny model that a cluster wants made; None for any other."""
    folder = local_folder(cluster.spec.model.source)
    if cluster.spec.engine.type is not EngineType.VLLM or folder is None:
        return None
    if not folder.name.startswith(TINY_PREFIX) or folder.parent.name != "models":
        return None
    kind = folder.name.removeprefix(TINY_PREFIX).replace("-", "_").replace(".", "_")
    return folder, kind


def _way_to(folder: Path) -> str:
    if folder.name.startswith(TINY_PREFIX):
        return f"make it: python -m epd_worker.engine.tiny_models {folder.parent}"
    return "give a folder with one, or a name on the Hugging Face hub"


def _listen_address(host: str, port: int) -> str:
    try:
        if port == 0:
            port = local_ports.free_block(1, host)
        if local_ports.is_free(port, host):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    except socket.gaierror:
        raise UsageError(f"--host {host}: no such address") from None
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    raise CommandError(
        f"port {port} on {host} is in use; choose another with --port, or a free one with --port 0"
    )


def _directory(cluster: EPDCluster, state_dir: str | None) -> StateDirectory:
    if state_dir is not None:
        return StateDirectory(Path(state_dir).expanduser())
    base = local_state.base_directory(os.environ)
    return StateDirectory(base / cluster.metadata.name, base)


def _notes(cluster: EPDCluster, host: str) -> tuple[str, ...]:
    gateway = cluster.spec.gateway
    notes = []
    if gateway.api_keys_secret_ref is not None:
        if host not in LOOPBACK:
            raise UsageError(
                "spec.gateway.apiKeysSecretRef names a Kubernetes Secret, and there is none here: "
                "without keys the gateway listens on this machine only; leave --host out"
            )
        notes.append("spec.gateway.apiKeysSecretRef: no Secrets here, so no API key is asked for")
    if gateway.replicas > 1:
        notes.append(f"spec.gateway.replicas: one gateway runs here instead of {gateway.replicas}")
    return tuple(notes)
