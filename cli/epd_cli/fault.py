"""`epd fault`: harms one pod of a cluster on this machine, to see what becomes of it.

To kill, freeze or slow a pod nothing in it takes part: what is sent are signals, to the worker and
all it has started. Handoffs are lost by the worker itself, as a file orders it to. All but a killed
pod are well again when the time is over, or at Ctrl-C.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum, unique
from pathlib import Path
from typing import Final

from epd.lossy_handoff import LossyHandoff
from epd_cli.connect import chosen_cluster
from epd_cli.failures import CommandError, UsageError
from epd_operator.local_state import replace

SLOW_PERIOD_S: Final = 0.1
SLOW_SHARE: Final = 0.75
"""The share of its time that a slowed pod stands still: what it does takes four times as long."""


@unique
class Fault(StrEnum):
    """What can be done to a pod."""

    KILL = "kill"
    FREEZE = "freeze"
    SLOW = "slow"
    LOSSY_HANDOFF = "lossy-handoff"


def run(options: argparse.Namespace) -> int:
    """Do it, say so, and undo it in the end."""
    directory = chosen_cluster(options)
    pods = {pod.name: pod for pod in directory.read().pods}
    pod = pods.get(options.pod)
    if pod is None:
        raise UsageError(f"no pod {options.pod!r}; pods: {', '.join(pods)}")
    if pod.process_id is None:
        raise CommandError(f"{pod.name} has no process now: it is {pod.state}")
    fault = Fault(options.fault)
    print(said(fault, pod.name, pod.process_id, options.seconds, options.share), flush=True)
    with _interrupted_by_sigterm():
        if fault is Fault.LOSSY_HANDOFF:
            lose_handoffs(directory.fault_file(pod.name), options.share, options.seconds)
        else:
            inflict(fault, pod.process_id, options.seconds)
    if fault is not Fault.KILL:
        print(f"{pod.name} goes on")
    return 0


def said(fault: Fault, pod: str, process_id: int, seconds: float, share: float = 0.5) -> str:
    """Return what is told before it is done."""
    match fault:
        case Fault.KILL:
            return f"{pod}: process {process_id} is killed; epd up starts it again"
        case Fault.FREEZE:
            return f"{pod}: process {process_id} stands still for {seconds:g} s"
        case Fault.SLOW:
            return f"{pod}: process {process_id} runs a quarter of its time for {seconds:g} s"
        case Fault.LOSSY_HANDOFF:
            return (
                f"{pod}: process {process_id} loses {share:.0%} of what it takes from other pods, "
                f"for {seconds:g} s"
            )


def lose_handoffs(
    file: Path, share: float, seconds: float, wait: Callable[[float], None] = time.sleep
) -> None:
    """Have a worker lose handoffs; return when it is over.

    Args:
        file: Where it looks for orders.
        share: Of its handoffs, 0 to 1.
        seconds: How long.
        wait: Waits; for tests.
    """
    try:
        replace(file, LossyHandoff(share, time.time() + seconds).text())
        wait(seconds)
    finally:
        file.unlink(missing_ok=True)


def inflict(
    fault: Fault, process_id: int, seconds: float, wait: Callable[[float], None] = time.sleep
) -> None:
    """Harm a process and its group; return when it is over.

    Args:
        fault: How.
        process_id: A worker's; it leads its process group.
        seconds: How long, where it does not end the process.
        wait: Waits; for tests.

    Raises:
        CommandError: The process is gone, or not ours.
    """
    if fault is Fault.KILL:
        _send(process_id, signal.SIGKILL)
        return
    end_s = time.monotonic() + seconds
    try:
        _send(process_id, signal.SIGSTOP)
        if fault is Fault.FREEZE:
            wait(seconds)
            return
        while time.monotonic() < end_s:
            wait(SLOW_PERIOD_S * SLOW_SHARE)
            _send(process_id, signal.SIGCONT)
            wait(SLOW_PERIOD_S * (1 - SLOW_SHARE))
            _send(process_id, signal.SIGSTOP)
    finally:
        _send(process_id, signal.SIGCONT)


def _send(process_id: int, number: signal.Signals) -> None:
    """Send a signal to a worker and all it has started."""
    try:
        if number is signal.SIGKILL:
            # Alone, as the kernel's memory killer does it: what it started notices, or is swept.
            os.kill(process_id, number)
        else:
            os.killpg(process_id, number)
    except ProcessLookupError:
        raise CommandError(f"process {process_id} is gone") from None
    except PermissionError:
        raise CommandError(f"process {process_id} belongs to another user") from None


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C: a pod must not be left standing still."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
