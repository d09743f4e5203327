"""What the gateway asks of the operating system: signals, open files, to end with its parent."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
from typing import Final

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_GC_ALLOCATIONS: Final = 20_000


def exit_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends, however it ends."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended just before
        os.kill(os.getpid(), signal.SIGTERM)


def raise_open_files(max_connections: int) -> None:
    """Allow this process as many open files as it may have; warn if that is too few.

    Args:
        max_connections: Clients that it shall take; each is an open file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft <= max_connections:
        logger.warning(
            "at most %d open files, too few for limits.max_connections=%d: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE=) or lower the setting",
            soft,
            max_connections,
        )


def calm_garbage_collector() -> None:
    """Look for cycles seldom: requests leave none, and what start-up made stays anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 10, 100)


class StopSignals:
    """SIGTERM and SIGINT: the first asks to stop, a second one to hurry."""

    def __init__(self) -> None:
        """Listen, in the running loop."""
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()
