"""Ctrl-C and its kin: the first cancels the command and lets it tidy up, the next ends it hard."""

import asyncio
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, signals cancel the task that entered it; later ones call the kill hook."""

    def __init__(self) -> None:
        """Count from zero."""
        self.count = 0
        self._task: asyncio.Task[object] | None = None
        self._kill: Callable[[], None] | None = None

    def when_impatient(self, kill: Callable[[], None]) -> None:
        """Call `kill` at every signal after the first."""
        self._kill = kill

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._received)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def _received(self) -> None:
        self.count += 1
        if self.count == 1 and self._task:
            self._task.cancel()
        elif self._kill:
            self._kill()
