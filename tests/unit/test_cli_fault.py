"""`epd fault`: what it does to a process, and that it undoes it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epd.lossy_handoff import LossyHandoff
from epd_cli.failures import CommandError
from epd_cli.fault import Fault, inflict, lose_handoffs, said

PATIENCE_S = 60


@pytest.fixture
def victim():
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def stands(process, still: bool) -> bool:
    """Wait until the kernel says of a process that it stands still, or does not."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (state(process) == "T") is not still:
        assert time.monotonic() < deadline_s, state(process)
        time.sleep(0.001)
    return still


def state(process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_killed_process_is_gone(victim):
    inflict(Fault.KILL, victim.pid, 10)
    assert victim.wait() == -signal.SIGKILL


def test_a_frozen_process_stands_still_and_then_goes_on(victim):
    seen = []
    inflict(Fault.FREEZE, victim.pid, 7, wait=lambda s: seen.append((s, stands(victim, True))))
    assert seen == [(7, True)]
    stands(victim, False)


def test_a_slowed_process_runs_now_and_then(victim):
    seen = []

    def wait(seconds):
        seen.append(stands(victim, len(seen) % 2 == 0))
        if len(seen) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inflict(Fault.SLOW, victim.pid, 60, wait=wait)
    assert seen == [True, False] * 4
    stands(victim, False)


def test_a_process_that_is_gone_is_told_in_one_line(victim):
    victim.kill()
    victim.wait()
    with pytest.raises(CommandError, match=f"process {victim.pid} is gone"):
        inflict(Fault.FREEZE, victim.pid, 1)


@pytest.mark.parametrize("fault", Fault)
def test_what_is_done_is_said_first(fault):
    assert said(fault, "tiny-1", 42, 5).startswith("tiny-1: process 42 ")


def test_a_pod_is_told_to_lose_handoffs_until_the_time_is_over(tmp_path):
    file, seen = tmp_path / "fault-tiny-1.json", []

    def wait(seconds):
        seen.append((seconds, LossyHandoff.read(file.read_text())))
        raise KeyboardInterrupt

    before_s = time.time()
    with pytest.raises(KeyboardInterrupt):
        lose_handoffs(file, 0.25, 60, wait)
    ((seconds, order),) = seen
    assert (seconds, order.share) == (60, 0.25)
    assert order.until_s >= before_s + 60
    assert not file.exists()
