"""Processes that are kept: started, seen ready, started again, ended with all they started."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from epd_operator.local_commands import Launch
from epd_operator.local_keeper import Backoff, Keeper, LocalEvent
from epd_operator.local_process import Child
from epd_operator.local_state import LocalError, PodState

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); {SLEEP}"
WITH_A_CHILD = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"
)


class Program(Keeper):
    """Runs a line of Python; ready at once, or as soon as a file is there."""

    def __init__(self, code: str, logs: Path, ready_file: Path | None = None) -> None:
        super().__init__("program", logs, self.heard)
        self.events: list[LocalEvent] = []
        self.reached: dict[PodState, asyncio.Event] = {state: asyncio.Event() for state in PodState}
        self.entries = 0
        self._code = code
        self._ready_file = ready_file
        self._backoff = Backoff(0.01)

    def heard(self, event: LocalEvent) -> None:
        self.events.append(event)
        self.reached[event.state].set()

    def launch(self) -> Launch:
        return Launch((sys.executable, "-c", self._code))

    async def probe(self) -> PodState:
        if self._ready_file is None or self._ready_file.exists():
            return PodState.READY
        return PodState.LOADING

    def entered(self) -> None:
        self.entries += 1

    def left(self) -> str:
        return "so much for that; "

    @property
    def states(self) -> list[PodState]:
        return [event.state for event in self.events]


Keep = Callable[..., Program]


@pytest.fixture
async def keep(tmp_path: Path) -> AsyncIterator[Keep]:
    tasks: list[asyncio.Task[None]] = []
    programs: list[Program] = []

    def start(code: str, ready_file: Path | None = None) -> Program:
        program = Program(code, tmp_path, ready_file)
        programs.append(program)
        tasks.append(asyncio.create_task(program.run(), name="keeper"))
        return program

    yield start
    for program in programs:
        program.kill()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_process_goes_from_starting_to_ready(keep: Keep, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready"
    program = keep(SLEEP, ready_file)
    await program.reached[PodState.LOADING].wait()
    assert program.entries == 0
    ready_file.touch()
    await program.reached[PodState.READY].wait()
    assert program.states == [PodState.STARTING, PodState.LOADING, PodState.READY]
    assert program.entries == 1


async def test_a_process_that_was_ready_is_started_again(keep: Keep) -> None:
    program = keep(SLEEP)
    await program.reached[PodState.READY].wait()
    first = program.process_id
    assert first is not None
    program.reached[PodState.READY].clear()
    os.kill(first, signal.SIGKILL)
    await program.reached[PodState.READY].wait()
    assert program.process_id not in (None, first)
    assert program.restarts == 1
    told = program.events[program.states.index(PodState.RESTARTING)].detail
    assert told.startswith("was killed by SIGKILL; so much for that; it starts again in")


async def test_a_process_that_never_was_ready_is_given_up_with_its_last_words(
    tmp_path: Path,
) -> None:
    code = "import sys; print('no such model'); sys.exit(3)"
    program = Program(code, tmp_path, tmp_path / "never")
    with pytest.raises(LocalError, match=r"ended with status 3 .* it said:\n    no such model"):
        await program.run()


async def test_what_a_dead_process_started_dies_too(keep: Keep) -> None:
    program = keep(WITH_A_CHILD)
    await program.reached[PodState.READY].wait()
    assert program.process_id is not None
    children = await asyncio.to_thread(children_of, psutil.Process(program.process_id))
    program.retire()
    os.kill(program.process_id, signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, children, timeout=10)
    assert not any(is_alive(child.pid) for child in children)


async def test_a_process_that_will_not_end_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    child = await Child.start(Launch((sys.executable, "-u", "-c", STUBBORN)), log)
    await asyncio.to_thread(until_written, log)
    await child.stop(grace_s=0.05)
    assert await child.wait() == "was killed by SIGKILL"


async def test_a_process_that_ends_when_asked_is_not_killed(tmp_path: Path) -> None:
    child = await Child.start(Launch((sys.executable, "-c", SLEEP)), tmp_path / "meek.log")
    await child.stop(grace_s=30)
    assert await child.wait() == "was killed by SIGTERM"


async def test_a_child_sees_what_its_launch_adds_to_the_environment(tmp_path: Path) -> None:
    log = tmp_path / "environment.log"
    command = (sys.executable, "-c", "import os; print(os.environ['ADDED'], 'PATH' in os.environ)")
    child = await Child.start(Launch(command, {"ADDED": "this"}), log)
    assert await child.wait() == "ended with status 0"
    assert log.read_text() == "this True\n"


def test_each_wait_is_twice_the_last_until_a_process_lasted() -> None:
    backoff = Backoff()
    waits = [backoff.after(lived_s) for lived_s in (0, 1, 1, 100, 0)]
    assert waits == [0.5, 1.0, 2.0, 0.5, 1.0]
    assert max(backoff.after(0) for _ in range(20)) == 30.0


def test_no_child_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import asyncio, pathlib, sys\n"
            "from epd_operator.local_commands import Launch\n"
            "from epd_operator.local_process import Child\n"
            "async def main():\n"
            f"    launch = Launch((sys.executable, '-c', {SLEEP!r}))\n"
            "    child = await Child.start(launch, pathlib.Path('child.log'))\n"
            "    print(child.process_id, flush=True)\n"
            "    await child.wait()\n"
            "asyncio.run(main())\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    while is_alive(child):
        time.sleep(0.01)


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """Wait until a process has children, and return them."""
    while not (children := process.children()):
        time.sleep(0.01)
    return children


def until_written(log: Path) -> None:
    """Wait until there is something in a log."""
    while log.stat().st_size == 0:
        time.sleep(0.01)


def is_alive(process_id: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has collected does not."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
