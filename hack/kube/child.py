"""One process of a bed: tied to whoever started it, its output in a file."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from epd_operator import local_child
from epd_operator.local_process import how_it_ended, last_lines

STOP_GRACE_S = 10.0

# The kernel ties a child to the thread that started it. This one lasts as long as the process, so
# that a bed may be started and mended from any thread.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bed-starter")


PACKAGES = Path(__file__).resolve().parents[1]


def python_module(name: str, *arguments: str) -> list[str]:
    """Return the command of one of our modules that needs nothing but the standard library."""
    return [sys.executable, "-P", "-S", "-m", name, *arguments]


class Child:
    """A running process. The kernel kills it when this process ends."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, keep_open: Sequence[int] = ()
    ) -> None:
        """Start `command`, an absolute path first; its output is appended to `log`.

        It inherits the files with the numbers in `keep_open`, and no others.
        """
        self.log = log
        with log.open("ab") as output:
            self._process = _starter.submit(
                subprocess.Popen,
                local_child.tied([str(part) for part in command]),
                env={**os.environ, "PYTHONPATH": str(PACKAGES)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=keep_open,
            ).result()

    @property
    def process_id(self) -> int:
        """The process as the machine numbers it."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, frozen or not."""
        return self._process.poll() is None

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)
        # Its threads stop one after the other: one more answer may slip out until all have.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning, and wait for its end."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and after `STOP_GRACE_S` do not ask."""
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait(self) -> int:
        """Wait for its end; return its status."""
        return self._process.wait()

    def last_words(self, lines: int = 5) -> str:
        """Say how it ended, with the last lines of its log."""
        code = self._process.poll()
        how = "is still running" if code is None else how_it_ended(code)
        return "\n".join([f"{self.log.stem} {how}; {self.log} ends:", *last_lines(self.log, lines)])
