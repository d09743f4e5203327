"""The process that holds a bed which was started from a terminal, until `down`.

It holds a lock for as long as it lives, so that nobody takes a stranger with its number for it.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, cast

from kube.bed import Bed, BedError
from kube.control_plane import ControlPlane
from kube.node import INSIDE, Node

READY: Final = "ready"
BEDS: Final[dict[str, type[Bed]]] = {"control-plane": ControlPlane, "node": Node}


def start(kind: str, folder: Path) -> Path:
    """Start a keeper with a bed of `kind`; return the administrator's kubeconfig.

    Raises:
        BedError: There is one already, or it did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "keeper.log"
    of_kind = [kind] if kind == "node" else []
    program = [sys.executable, str(Path(__file__).parent), *of_kind]
    command = [*program, "keep", "--dir", str(folder)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    with cast(IO[str], process.stdout) as said:
        word = said.readline().strip()
    if word != READY:
        process.wait()
        raise BedError(log.read_text().strip() or f"the keeper ended; see {log}")
    process.returncode = 0  # it is to outlive us: no warning that nobody waits for it
    return _bed_folder(folder) / "admin.kubeconfig"


def keep(kind: str, folder: Path) -> int:
    """Hold a bed of `kind` until SIGTERM or Ctrl-C.

    Raises:
        BedError: There is one already, or it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _lock(folder) as file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        # What a keeper left that was killed together with its janitor.
        shutil.rmtree(_bed_folder(folder), ignore_errors=True)
        with suppress(KeyboardInterrupt, SystemExit), BEDS[kind](_bed_folder(folder)):
            print(READY, flush=True)
            while True:
                signal.pause()
    return 0


def stop(folder: Path) -> None:
    """End the bed in `folder`, if there is one, and wait until nothing is left of it."""
    path = folder / "lock"
    if not path.is_file():
        return
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(int(file.read()), signal.SIGTERM)
            fcntl.flock(file, fcntl.LOCK_EX)
        shutil.rmtree(folder)


@contextmanager
def _lock(folder: Path) -> Iterator[IO[str]]:
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BedError(f"a bed is up in {folder}; end it with `down` first") from None
        yield file


def node_in(folder: Path) -> tuple[int, Path]:
    """Return process 1 of the node in `folder`, and the kubeconfig for its network.

    Raises:
        BedError: There is none.
    """
    try:
        process_id = int((_bed_folder(folder) / "node.pid").read_text())
    except OSError:
        raise BedError(f"no node is up in {folder}") from None
    return process_id, _bed_folder(folder) / INSIDE


def _bed_folder(folder: Path) -> Path:
    return folder / "bed"
