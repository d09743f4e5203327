"""One child process: in a session of its own, its output in a file, its group swept after it."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from epd_operator import local_child
from epd_operator.local_commands import Launch

TAIL_BYTES: Final = 64 * 1024
SWEEP_GRACE_S: Final = 5.0
"""Python's resource tracker removes shared memory and semaphores once all others have ended."""

SWEEP_INTERVAL_S: Final = 0.02


class Child:
    """A process we started, and whatever it starts in its group.

    The session of its own keeps a terminal's Ctrl-C away from it: we say when it ends.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        """Wrap a running process; see `start`."""
        self._process = process
        self._swept = False
        self.log = log

    @classmethod
    async def start(cls, launch: Launch, log: Path) -> "Child":
        """Start a process with its output appended to `log`."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *local_child.tied(launch.command),
                env={**os.environ, **launch.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def process_id(self) -> int:
        """The process; also its group and session."""
        return self._process.pid

    async def wait(self) -> str:
        """Wait for the end of the process itself, and say how it ended."""
        return how_it_ended(await self._process.wait())

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """End the process now. What it started notices, or is swept."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self, grace_s: float) -> None:
        """Ask it to end; after `grace_s`, or if we are cancelled, do not ask."""
        self.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        await self._process.wait()
        await self.sweep()

    async def sweep(self) -> None:
        """Let what is left of its group tidy up and end; what does not is killed."""
        deadline_s = asyncio.get_running_loop().time() + SWEEP_GRACE_S
        while not self._swept:
            late = asyncio.get_running_loop().time() >= deadline_s
            try:
                # What was stopped must go on, or it could not tidy up.
                os.killpg(self._process.pid, signal.SIGKILL if late else signal.SIGCONT)
            except ProcessLookupError:
                late = True
            # Never twice: the group's number may be somebody else's by then.
            self._swept = late
            if not late:
                await asyncio.sleep(SWEEP_INTERVAL_S)


def how_it_ended(code: int) -> str:
    """Say what an exit status means."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a log that say something; nothing if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
