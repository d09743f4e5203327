"""The few calls of Linux that Python 3.11 lacks: namespaces and mounts. Standard library only."""

import ctypes
import os
from pathlib import Path
from typing import Final

NEW_MOUNTS: Final = 0x0002_0000
NEW_CGROUP: Final = 0x0200_0000
NEW_HOST_NAME: Final = 0x0400_0000
NEW_IPC: Final = 0x0800_0000
NEW_PROCESSES: Final = 0x2000_0000
NEW_NETWORK: Final = 0x4000_0000
OF_A_NODE: Final = NEW_MOUNTS | NEW_CGROUP | NEW_HOST_NAME | NEW_IPC | NEW_PROCESSES | NEW_NETWORK

MOUNT_BIND: Final = 0x1000
MOUNT_RECURSIVE: Final = 0x4000
MOUNT_PRIVATE: Final = 0x4_0000
MOUNT_SHARED: Final = 0x10_0000

_FILES: Final = ("net", "mnt", "pid", "ipc", "uts", "cgroup")

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for fresh ones; children alone enter that of processes."""
    _check(_libc.unshare(flags), "unshare")


def enter(process_id: int, *, network_only: bool) -> None:
    """Enter the network, or all namespaces, of a process; needs root and a single thread."""
    names = _FILES[:1] if network_only else _FILES
    # All are opened before the first is entered: afterwards /proc is another.
    files = [os.open(f"/proc/{process_id}/ns/{name}", os.O_RDONLY) for name in names]
    for file in files:
        _check(_libc.setns(file, 0), "setns")
        os.close(file)


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount something on a folder, which is made if it is not there; see `man 2 mount`."""
    if not Path(target).exists():
        Path(target).mkdir(parents=True)
    done = _libc.mount(
        source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(done, f"mount {kind or source} on {target}")


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _check(_libc.prctl(1, 9, 0, 0, 0), "prctl")


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
