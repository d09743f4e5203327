"""Shows how the processes of a cluster come up: moving lines on a terminal, plain ones in a log."""

import asyncio
import time
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from epd_operator.local_keeper import LocalEvent
from epd_operator.local_state import PodState

REFRESH_PER_SECOND: Final = 8
SIGN_OF_LIFE_S: Final = 10.0


class Progress(Protocol):
    """Where the events of a cluster are shown."""

    def report(self, event: LocalEvent) -> None:
        """Show a change of one process."""
        ...

    def started(self) -> None:
        """All are ready: from here on only troubles are told."""
        ...

    def stopping(self) -> None:
        """All are about to end."""
        ...

    def say(self, text: str) -> None:
        """Show one line."""
        ...


def progress_for(stream: TextIO) -> "AbstractContextManager[Progress]":
    """Return what suits a terminal, or a log. It is entered inside the event loop."""
    return MovingProgress(stream) if stream.isatty() else PlainProgress(stream)


class PlainProgress:
    """A line whenever something changes, and a sign of life while nothing does."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._began_s = time.monotonic()
        self._states: dict[str, PodState] = {}
        self._is_up = False
        self._is_ending = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wind()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._unwind()

    def report(self, event: LocalEvent) -> None:
        """Show a change of one process."""
        self._states[event.process] = event.state
        if self._is_ending:
            return
        if self._is_up:
            self.say(trouble(event, datetime.now().astimezone()))
        else:
            detail = f": {event.detail}" if event.detail else ""
            self.say(f"  {event.process}: {event.state}{detail} ({self._elapsed_s():.1f} s)")
            self._wind()

    def started(self) -> None:
        """From here on only troubles are told."""
        self._is_up = True
        self._unwind()

    def stopping(self) -> None:
        """From here on nothing is told that was meant to happen."""
        self._is_ending = True
        self._unwind()
        self.say("stopping…")

    def say(self, text: str) -> None:
        """Show one line, if anybody is left to see it: a closed terminal ends no cluster."""
        with suppress(OSError):
            print(text, file=self._stream, flush=True)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _wind(self) -> None:
        self._unwind()
        self._timer = asyncio.get_running_loop().call_later(SIGN_OF_LIFE_S, self._sign_of_life)

    def _unwind(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _sign_of_life(self) -> None:
        awaited = [f"{n} {s}" for n, s in self._states.items() if s is not PodState.READY]
        self.say(f"  … {', '.join(awaited)} ({self._elapsed_s():.0f} s)")
        self._wind()


class MovingProgress(PlainProgress):
    """One line per process that changes in place; plain lines once all are up."""

    def __init__(self, stream: TextIO) -> None:
        """Write to the terminal `stream`."""
        super().__init__(stream)
        self._lines: dict[str, _Line] = {}
        self._live = Live(
            console=Console(file=stream),
            get_renderable=self._render,
            refresh_per_second=REFRESH_PER_SECOND,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def report(self, event: LocalEvent) -> None:
        """Show a change of one process."""
        if self._is_up or self._is_ending:
            super().report(event)
        else:
            self._lines.setdefault(event.process, _Line()).move(event)

    def started(self) -> None:
        """Leave the lines as they are; from here on only troubles are told."""
        self._live.stop()
        super().started()

    def stopping(self) -> None:
        """Stop moving."""
        self._live.stop()
        super().stopping()

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name, line in self._lines.items():
            table.add_row(" ", line.mark(), name, line.text(time.monotonic()))
        return table


class _Line:
    """What one process shows."""

    def __init__(self) -> None:
        self._event: LocalEvent | None = None
        self._began_s = time.monotonic()
        self._until_s: float | None = None
        self._spinner = Spinner("dots")

    def move(self, event: LocalEvent) -> None:
        self._event = event
        self._until_s = time.monotonic() if event.state is PodState.READY else None

    def mark(self) -> Spinner | str:
        return self._spinner if self._until_s is None else "[green]✓[/green]"

    def text(self, now_s: float) -> str:
        if self._event is None:
            return ""
        took_s = (now_s if self._until_s is None else self._until_s) - self._began_s
        detail = f": {self._event.detail}" if self._event.detail else ""
        return f"{self._event.state}{detail} [dim]{took_s:.1f} s[/dim]"


def trouble(event: LocalEvent, now: datetime) -> str:
    """Return the line that tells of a change in a cluster that is up."""
    what = event.detail or f"is {event.state}"
    return f"{now:%H:%M:%S} {event.process} {what}"
