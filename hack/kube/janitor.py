"""Removes what a bed leaves behind, once whoever started it has ended, however it ended.

It is told what to remove by lines on its standard input, and acts when that input ends: on purpose,
or because the kernel closed it for a process that was killed. So there is one way to tidy up, and
it is the one that is always taken. Standard library only; it runs alone.

    tree PATH      a folder of files
    cgroup PATH    a cgroup folder: every process in it is killed first
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

PATIENCE_S = 30.0
INTERVAL_S = 0.05


class Janitor:
    """The other end: a process that outlives this one for as long as tidying up takes."""

    def __init__(self) -> None:
        """Start it, in a session of its own: Ctrl-C is not meant for it."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._orders = cast(IO[str], self._process.stdin)

    def remove(self, kind: str, path: Path) -> None:
        """Have `path` removed in the end; `kind` is `tree` or `cgroup`."""
        self._orders.write(f"{kind} {path}\n")
        self._orders.flush()

    def finish(self) -> None:
        """Tidy up now, and wait for it.

        Raises:
            RuntimeError: Something is left.
        """
        self._orders.close()
        if self._process.wait() != 0:
            raise RuntimeError("the bed could not be tidied up; see above")


def removed(kind: str, path: Path) -> bool:
    """Try once to remove `path`; tell whether it is gone."""
    if kind == "tree":
        shutil.rmtree(path, ignore_errors=True)
    else:
        folders = [Path(folder) for folder, _, _ in os.walk(path, topdown=False)]
        for folder in folders:
            with suppress(OSError):
                for process_id in (folder / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(process_id), signal.SIGKILL)
            with suppress(OSError):
                folder.rmdir()
    return not path.exists()


def main() -> int:
    """Wait for the end of the input, then remove everything; 1 if something is left."""
    tasks = [line.rstrip("\n").split(" ", 1) for line in sys.stdin]
    left = [(kind, Path(path)) for kind, path in reversed(tasks)]
    deadline_s = time.monotonic() + PATIENCE_S
    while left := [task for task in left if not removed(*task)]:
        if time.monotonic() > deadline_s:
            print("left behind:", *(str(path) for _, path in left), file=sys.stderr)
            return 1
        time.sleep(INTERVAL_S)
    return 0


if __name__ == "__main__":
    # Nobody asks it to end: it ends when its work is done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(main())
