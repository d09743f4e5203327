"""The files of a cluster that runs as processes on this machine, and who may touch them.

`epd up` claims a state directory for as long as it lives; the claim is a lock on a file, so it ends
with the process, however that ends. Inside lie:

- `cluster.json`: what the other commands need to know (`RunningCluster`), replaced as a whole;
- `control.json`: the last pass of the control loop (`local_control`), where there is one;
- `roster.json`: the pods and roles that the gateway follows (`local_roster`);
- `fault-NAME.json`: what `epd fault lossy-handoff` asks of a pod, while it does;
- `prometheus.json`: where metrics are, for `file_sd_configs` of a Prometheus;
- `logs/NAME.log`: what each process wrote.
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum, unique
from pathlib import Path
from typing import Final, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from epd.vocabulary import Env, Role

LOCAL_NAMESPACE: Final = "local"
"""What stands for a namespace in the metrics of a cluster on this machine."""

CLAIM_PATIENCE_S: Final = 0.3
"""A look by another command holds the lock for an instant; a running cluster for longer."""


class LocalError(Exception):
    """A cluster on this machine cannot do what was asked; the message is for the user."""


@unique
class PodState(StrEnum):
    """How far a process is: a worker, or the gateway."""

    STARTING = "starting"
    LOADING = "loading model"
    WAITING = "waiting for workers"
    READY = "ready"
    RESTARTING = "restarting"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalPod(_Record):
    """One worker as `epd up` sees it.

    Attributes:
        name: The pod's name.
        role: The role it has, or had when it was last in the roster.
        state: How far its process is.
        process_id: The worker process; None between two starts.
        address: HOST:PORT of its gRPC service.
        restarts: How often it was started again.
    """

    name: str
    role: Role
    state: PodState = PodState.STARTING
    process_id: int | None = None
    address: str = ""
    restarts: int = 0


class RunningCluster(_Record):
    """What `epd up` tells the other commands.

    Attributes:
        name: The cluster's name.
        model: The served model name.
        engine: The engine type, as the manifest spells it.
        process_id: The process of `epd up`.
        gateway_process_id: The gateway; None between two starts.
        gateway_url: Base of the OpenAI routes, without `/v1`.
        admin_url: Base of the gateway's admin routes.
        control_metrics_url: Metrics of the control loop; empty where there is none.
        pods: The workers, in the order of the manifest.
    """

    name: str
    model: str
    engine: str
    process_id: int
    gateway_process_id: int | None
    gateway_url: str
    admin_url: str
    control_metrics_url: str = ""
    pods: tuple[LocalPod, ...]


def base_directory(environment: Mapping[str, str]) -> Path:
    """Return where the state directories of this user's clusters lie."""
    chosen = environment.get(Env.STATE_DIR)
    if chosen:
        return Path(chosen)
    runtime = environment.get("XDG_RUNTIME_DIR")
    parent = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    return parent / f"epd-{os.getuid()}"


class StateDirectory:
    """One cluster's state directory. With a lock file in it, it is ours to empty."""

    def __init__(self, path: Path, base: Path | None = None) -> None:
        """Name the directory; nothing is created before `claim`.

        Args:
            path: The directory.
            base: Its parent, where that is ours too and goes away with the last cluster.
        """
        self.path = path.absolute()
        self._base = base
        self.cluster_file = self.path / "cluster.json"
        self.roster_file = self.path / "roster.json"
        self.control_file = self.path / "control.json"
        self.targets_file = self.path / "prometheus.json"
        self.logs = self.path / "logs"
        self._lock_file = self.path / "lock"
        self._claim: TextIO | None = None

    def fault_file(self, pod: str) -> Path:
        """Return where a pod is told to lose handoffs; most of the time it is not there."""
        return self.path / f"fault-{pod}.json"

    def claim(self) -> None:
        """Create the directory, make it ours until this process ends, and empty it.

        Raises:
            LocalError: Another cluster runs from it, or it cannot be used.
        """
        try:
            if self._base is not None:
                _make_private(self._base)
            _make_private(self.path)
            if not self._lock_file.exists() and any(self.path.iterdir()):
                raise LocalError(f"{self.path} holds other files; choose another --state-dir")
            claim = self._locked()
            if claim is None:
                raise LocalError(
                    f"a cluster already runs from {self.path}{self._owner()}; stop it with "
                    "Ctrl-C there, or choose another --state-dir"
                )
            self._claim = claim
            self._remove_files(keep_logs=False)
            self.logs.mkdir()
        except OSError as error:
            raise LocalError(f"state directory {self.path}: {error.strerror}") from None

    def release(self, *, keep_logs: bool) -> None:
        """Remove what `claim` and the cluster wrote, and give the directory up."""
        if self._claim is None:
            return
        self._remove_files(keep_logs=keep_logs)
        if not keep_logs:
            self._lock_file.unlink(missing_ok=True)
            self.path.rmdir()
            if self._base is not None:
                with suppress(OSError):  # another cluster's directory lies there too
                    self._base.rmdir()
        self._claim.close()
        self._claim = None

    def is_running(self) -> bool:
        """Tell whether a live `epd up` holds this directory."""
        try:
            with self._lock_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def write(self, cluster: RunningCluster) -> None:
        """Replace what the other commands read."""
        replace(self.cluster_file, cluster.model_dump_json(indent=2))

    def read(self) -> RunningCluster:
        """Return what `epd up` last wrote.

        Raises:
            LocalError: Nothing runs from this directory, or it does not say what yet.
        """
        if not self.is_running():
            raise LocalError(f"no cluster runs from {self.path}; start one: epd up -f cluster.yaml")
        try:
            return RunningCluster.model_validate_json(self.cluster_file.read_bytes())
        except FileNotFoundError:
            raise LocalError(f"the cluster in {self.path} is only starting; try again") from None
        except ValidationError:
            raise LocalError(f"{self.cluster_file} was written by another version") from None

    def write_targets(self, cluster: str, addresses: Sequence[str]) -> None:
        """Replace what tells a Prometheus where to scrape a cluster.

        Args:
            cluster: Its name.
            addresses: HOST:PORTs of `/metrics`.
        """
        labels = {"namespace": LOCAL_NAMESPACE, "epd_dev_cluster": cluster}
        replace(
            self.targets_file,
            json.dumps([{"targets": list(addresses), "labels": labels}], indent=2),
        )

    def _locked(self) -> TextIO | None:
        """Return the lock file, locked, or None if somebody keeps it."""
        deadline_s = time.monotonic() + CLAIM_PATIENCE_S
        while True:
            file = self._lock_file.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it before may have unlinked it as they left.
                if os.path.samestat(os.fstat(file.fileno()), self._lock_file.stat()):
                    return file
            except (BlockingIOError, FileNotFoundError):
                pass
            file.close()
            if time.monotonic() > deadline_s:
                return None
            time.sleep(0.02)

    def _owner(self) -> str:
        try:
            owner = RunningCluster.model_validate_json(self.cluster_file.read_bytes())
        except (OSError, ValidationError):
            return ""
        return f" (process {owner.process_id})"

    def _remove_files(self, *, keep_logs: bool) -> None:
        for name in ("cluster", "roster", "control", "prometheus", "fault-*"):
            for file in self.path.glob(f"{name}.json*"):
                file.unlink(missing_ok=True)
        if not keep_logs:
            shutil.rmtree(self.logs, ignore_errors=True)


def find_running(base: Path) -> list[StateDirectory]:
    """Return the state directories below `base` from which a cluster runs, by name."""
    if not base.is_dir():
        return []
    found = (StateDirectory(path, base) for path in sorted(base.iterdir()) if path.is_dir())
    return [directory for directory in found if directory.is_running()]


def replace(path: Path, text: str) -> None:
    """Give `path` new content at once: a reader sees the old text or the new one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def _make_private(path: Path) -> None:
    """Create a folder that only this user can read; refuse one that is somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.lstat().st_uid  # of a link itself: in a shared folder anybody can lay one
    if owner != os.getuid():
        raise LocalError(f"{path} belongs to user {owner}; choose another --state-dir")
