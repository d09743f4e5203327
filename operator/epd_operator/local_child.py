"""Starts a command that the kernel kills when its parent ends, however early that is.

Programs tie themselves to their parent with `--exit-with-parent`, but only once Python has loaded
them. This file closes the gap: it runs alone, without site-packages, ties itself and becomes the
command; the tie outlives that.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that does the same, tied to this process from its first moment."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Become `command`, unless `parent` is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() == parent:
        os.execv(command[0], command)  # noqa: S606 - no shell, and the command is our own


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
