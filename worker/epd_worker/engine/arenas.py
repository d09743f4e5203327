"""Whose the files are in which engines keep their embeddings, and which of them nobody needs.

An engine's file has no name any more once all its processes have mapped it. A worker that is killed
in the second before leaves it behind: 64 MiB of memory. Its name says whose it is, and the next
worker that starts removes what belonged to processes that are no more.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where vLLM makes the files

_OWN: Final = "epd"


def mark_of(pid: int) -> str:
    """Return what names a process for good: its PID namespace, its id, and when it began.

    Raises `OSError` where there is no such process.
    """
    namespace = os.stat("/proc/self/ns/pid").st_ino
    stat = Path(f"/proc/{pid}/stat").read_text()
    began_ticks = stat.rpartition(")")[2].split()[19]
    return f"{_OWN}-{namespace}-{pid}-{began_ticks}"


def name_engine(instance: str) -> str:
    """Return vLLM's name for an engine with the mark of this process before it."""
    return f"{mark_of(os.getpid())}-{instance}"


def remove_of(instance: str, folder: Path = SHARED_MEMORY) -> None:
    """Remove the files of one engine."""
    for arena in folder.glob(f"vllm_ec_{instance}_*.mmap"):
        arena.unlink(missing_ok=True)


def remove_abandoned(folder: Path = SHARED_MEMORY) -> None:
    """Remove the files of this user's workers that have ended; of other namespaces none."""
    namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    for arena in folder.glob(f"vllm_ec_{_OWN}-*.mmap"):
        mark = arena.name.removeprefix("vllm_ec_").split("-")[:4]
        if len(mark) < 4 or mark[1] != namespace or not mark[2].isdecimal():
            continue
        with suppress(FileNotFoundError):
            if arena.stat().st_uid == os.getuid() and not _is_alive(int(mark[2]), "-".join(mark)):
                arena.unlink()


def _is_alive(pid: int, mark: str) -> bool:
    try:
        return mark_of(pid) == mark
    except (FileNotFoundError, ProcessLookupError):
        return False
