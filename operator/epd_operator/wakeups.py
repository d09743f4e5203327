"""Runs passes: one at a time for each cluster, soon after it was woken, and again in time.

Wake-ups that come while a pass runs, or in quick succession, become one further pass. A pass that
fails is repeated, ever later; a success forgets the failures.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from epd_operator.objects import Key
from epd_operator.progress import Progress

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05
"""After a wake-up, wait so long for more: a change of one cluster comes as many events."""

FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
PASS_DEADLINE_S: Final = 120.0
"""A pass that takes longer hangs, whatever it waits for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended.

    Attributes:
        look_again_s: When to run the next one, if nothing wakes it before.
        has_failed: Something was refused or failed; the next one comes by the backoff.
        is_gone: The cluster does not exist any more.
    """

    look_again_s: float
    has_failed: bool = False
    is_gone: bool = False


Pass = Callable[[Key], Awaitable[Outcome]]


@dataclass(slots=True)
class _Turn:
    """One cluster's turns."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class WakeUps:
    """Gives every known cluster its passes."""

    def __init__(
        self, run_pass: Pass, progress: Progress | None = None, *, concurrent_passes: int = 8
    ) -> None:
        """Run passes with `run_pass`, at most so many at once; `progress` hears of each."""
        self._run_pass = run_pass
        self._progress = progress or Progress()
        self._slots = asyncio.Semaphore(concurrent_passes)
        self._turns: dict[Key, _Turn] = {}
        self.passes = 0
        self.failures = 0

    @property
    def clusters(self) -> int:
        """How many clusters are known."""
        return len(self._turns)

    def wake(self, key: Key) -> None:
        """Run a pass for this cluster soon."""
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = _Turn()
            turn.task = asyncio.create_task(self._turn(key, turn), name=f"passes of {key}")
        turn.wake.set()

    async def close(self) -> None:
        """End all passes; one that runs is cut off where it waits."""
        tasks = [turn.task for turn in self._turns.values() if turn.task is not None]
        for key in self._turns:
            self._progress.forget(_work(key))
        self._turns.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _turn(self, key: Key, turn: _Turn) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            turn.wake.clear()
            outcome = await self._pass(key)
            if outcome.is_gone and not turn.wake.is_set():
                self._progress.forget(_work(key))
                del self._turns[key]
                return
            if outcome.has_failed:
                # Nothing of the wake-ups of the meantime is lost: the next pass sees the world.
                self._progress.expect(_work(key), 2 * retry_s)
                await asyncio.sleep(retry_s * random.uniform(0.8, 1.2))
                retry_s = min(retry_s * 2, LAST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            self._progress.expect(_work(key), outcome.look_again_s)
            try:
                async with asyncio.timeout(outcome.look_again_s):
                    await turn.wake.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_S)

    async def _pass(self, key: Key) -> Outcome:
        self._progress.forget(_work(key))  # it may stand in line for long; those in front may not
        async with self._slots:
            self._progress.expect(_work(key), PASS_DEADLINE_S)
            self.passes += 1
            try:
                async with asyncio.timeout(PASS_DEADLINE_S):
                    outcome = await self._run_pass(key)
            except TimeoutError:
                log.error("%s: a pass took over %.0f s and was cut off", key, PASS_DEADLINE_S)
                outcome = Outcome(look_again_s=0, has_failed=True)
            except Exception:
                # A fault of ours in one cluster must not stop the others.
                log.exception("%s: the pass broke", key)
                outcome = Outcome(look_again_s=0, has_failed=True)
        self.failures += outcome.has_failed
        return outcome


def _work(key: Key) -> str:
    return f"passes of {key}"
