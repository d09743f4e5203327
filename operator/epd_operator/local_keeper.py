"""Keeps one process of a local cluster running: start, wait until ready, wait for its end."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from epd_operator.local_commands import Launch
from epd_operator.local_process import Child, last_lines
from epd_operator.local_state import LocalError, PodState

# A simulated engine is ready in a moment; one that loads a model must not be asked all the time.
FIRST_POLL_S: Final = 0.02
POLL_GROWTH: Final = 1.05
LONGEST_POLL_S: Final = 0.5
FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 30.0
STABLE_AFTER_S: Final = 60.0
"""A process that was ready this long has earned a quick restart."""

SHOWN_LOG_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class LocalEvent:
    """A process is in a new state; `detail` is one line for a person, or empty."""

    process: str
    state: PodState
    detail: str = ""


Report = Callable[[LocalEvent], None]


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start: twice as long after each that did not last."""

    next_s: float = FIRST_BACKOFF_S

    def after(self, lived_s: float) -> float:
        """Return the wait after a process that was ready for `lived_s`."""
        wait_s = FIRST_BACKOFF_S if lived_s >= STABLE_AFTER_S else self.next_s
        self.next_s = min(2 * wait_s, LONGEST_BACKOFF_S)
        return wait_s


class Keeper(ABC):
    """One process over all its starts. Subclasses say how it starts and when it is ready."""

    def __init__(self, name: str, logs: Path, report: Report) -> None:
        """Name the process; its log is `logs`/NAME.log."""
        self.name = name
        self.log = logs / f"{name}.log"
        self.state = PodState.STARTING
        self.restarts = 0
        self.child: Child | None = None
        self.start_turn: contextlib.AbstractAsyncContextManager[object] = contextlib.nullcontext()
        """Held from a start until the process is ready or has ended."""
        self._report = report
        self._backoff = Backoff()
        self._retired = asyncio.Event()

    @property
    def process_id(self) -> int | None:
        """The running process; None between two starts."""
        return self.child.process_id if self.child else None

    @abstractmethod
    def launch(self) -> Launch:
        """Return how to start it now."""

    @abstractmethod
    async def probe(self) -> PodState:
        """Ask it how far it is; called again and again until it is ready."""

    @abstractmethod
    def entered(self) -> None:
        """Act on its being ready."""

    @abstractmethod
    def left(self) -> str:
        """Act on its end, ready or not; return what to tell of that, or nothing."""

    async def run(self) -> None:
        """Keep it running until it is retired.

        Raises:
            LocalError: It ended before it had ever been ready.
        """
        loop = asyncio.get_running_loop()
        while not self._retired.is_set():
            async with self.start_turn:
                if self._retired.is_set():
                    return
                self.child = child = await Child.start(self.launch(), self.log)
                self._move(PodState.STARTING)
                ended = asyncio.ensure_future(child.wait())
                became_ready = await self._ready_before(ended)
            ready_at_s = loop.time()
            if became_ready:
                self.entered()
                self._move(PodState.READY)
            how = await ended
            self.child = None
            consequence = self.left()
            wait_s = self._backoff.after(loop.time() - ready_at_s)
            if self._retired.is_set():
                await child.sweep()
                return
            if not became_ready and not self.restarts:
                await child.sweep()
                raise LocalError(self._epitaph(how))
            self.restarts += 1
            self._move(PodState.RESTARTING, f"{how}; {consequence}it starts again in {wait_s:g} s")
            await child.sweep()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), wait_s)

    def retire(self) -> None:
        """Let the next end of the process be the last."""
        self._retired.set()

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, and see to it after `grace_s`."""
        self.retire()
        if self.child:
            await self.child.stop(grace_s)

    def kill(self) -> None:
        """End the process now."""
        self.retire()
        if self.child:
            self.child.kill()

    async def _ready_before(self, ended: asyncio.Future[str]) -> bool:
        """Wait for the process to be ready, or to end; tell which."""
        interval_s = FIRST_POLL_S
        while not ended.done():
            state = await self.probe()
            if state is PodState.READY:
                return not ended.done()
            if state is not self.state:
                self._move(state)
            await asyncio.wait([ended], timeout=interval_s)
            interval_s = min(interval_s * POLL_GROWTH, LONGEST_POLL_S)
        return False

    def _move(self, state: PodState, detail: str = "") -> None:
        self.state = state
        self._report(LocalEvent(self.name, state, detail))

    def _epitaph(self, how: str) -> str:
        lines = last_lines(self.log, SHOWN_LOG_LINES)
        said = "".join(f"\n    {line}" for line in lines) or " nothing"
        return f"{self.name} {how} before it was ready; it said:{said}"
