"""Files of shared memory: whose they are, and which are nobody's any more."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = "/dev/shm"


def files() -> set[str]:
    """Return the names of all files."""
    return set(os.listdir(SHARED_MEMORY))


def files_of(process_ids: Iterable[int]) -> set[str]:
    """Return the names of the files that these processes have mapped."""
    mapped: set[str] = set()
    for process_id in process_ids:
        with suppress(OSError):  # it has just ended
            maps = Path(f"/proc/{process_id}/maps").read_text().splitlines()
            mapped |= {Path(line.split()[5]).name for line in maps if SHARED_MEMORY in line}
    return mapped


def orphans() -> set[str]:
    """Return the names of the files that no living process has mapped."""
    found = files()
    return found - files_of(int(name) for name in os.listdir("/proc") if name.isdigit())
