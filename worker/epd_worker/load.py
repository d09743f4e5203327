"""What one worker has done and is doing, stage by stage: the numbers behind `WatchLoad`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from epd.vocabulary import Stage
from epd.wire.messages import Load, StageLoad
from epd_worker.engine import EngineLoad


@dataclass(slots=True)
class StageCounters:
    """Work of one stage; `in_flight` has begun here and not ended."""

    in_flight: int = 0
    started: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    service_us: int = 0
    tokens: int = 0

    def snapshot(self, waiting: int) -> StageLoad:
        """Return the counters, of the work in flight so much still waiting for the engine."""
        waiting = min(waiting, self.in_flight)
        return StageLoad(
            waiting=waiting,
            running=self.in_flight - waiting,
            started_total=self.started,
            finished_total=self.finished,
            failed_total=self.failed,
            cancelled_total=self.cancelled,
            service_us_total=self.service_us,
            tokens_total=self.tokens,
        )


class LoadBoard:
    """Counts the work of a worker and wakes those who watch.

    Attributes:
        stages: The counters.
        on_handoff: Told of each wait for another worker: `ec` or `kv`, and seconds.
        on_step: Told of the seconds between two engine steps of a session under work.
    """

    def __init__(self) -> None:
        self.on_handoff: Callable[[str, float], None] = lambda _kind, _seconds: None
        self.on_step: Callable[[float], None] = lambda _seconds: None
        self.stages = {stage: StageCounters() for stage in Stage}
        self._watchers: set[asyncio.Event] = set()

    @property
    def in_flight(self) -> int:
        """How many pieces of work have begun and not ended."""
        return sum(counters.in_flight for counters in self.stages.values())

    def begin(self, stage: Stage) -> "Visit":
        """Count one piece of work that begins."""
        counters = self.stages[stage]
        counters.in_flight += 1
        counters.started += 1
        self.wake()
        return Visit(self, counters)

    def load(self, engine: EngineLoad) -> Load:
        """Return the load, the engine's own numbers included."""
        stages = self.stages
        return Load(
            encode=stages[Stage.ENCODE].snapshot(engine.waiting_encode),
            prefill=stages[Stage.PREFILL].snapshot(engine.waiting_prefill),
            decode=stages[Stage.DECODE].snapshot(engine.waiting_decode),
            running_tokens=engine.running_tokens,
            waiting_prefill_tokens=engine.waiting_prefill_tokens,
            kv_used_permille=engine.kv_used_permille,
            ec_used_permille=engine.ec_used_permille,
            kv_leases=engine.kv_leases,
            ec_leases=engine.ec_leases,
            ec_received_bytes_total=engine.ec_received_bytes_total,
            kv_received_bytes_total=engine.kv_received_bytes_total,
        )

    def wake(self) -> None:
        """Tell the watchers that something changed."""
        for watcher in self._watchers:
            watcher.set()

    def watch(self) -> asyncio.Event:
        """Return an event that each change sets; give it back with `unwatch`."""
        event = asyncio.Event()
        self._watchers.add(event)
        return event

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting an event that `watch` returned."""
        self._watchers.discard(event)


class Visit:
    """One piece of work in one stage, from its begin to one of its three ends."""

    __slots__ = ("_board", "_counters", "_start_s")

    def __init__(self, board: LoadBoard, counters: StageCounters) -> None:
        self._board = board
        self._counters = counters
        self._start_s = monotonic()

    def finish(self, tokens: int = 0) -> None:
        """Count the work as done, with the time it took and the tokens it was about."""
        self._counters.finished += 1
        self._counters.tokens += tokens
        self._counters.service_us += self.elapsed_us()
        self._end()

    def fail(self) -> None:
        """Count the work as failed."""
        self._counters.failed += 1
        self._end()

    def cancel(self) -> None:
        """Count the work as cancelled."""
        self._counters.cancelled += 1
        self._end()

    def elapsed_us(self) -> int:
        """Return the time since the begin in microseconds."""
        return round((monotonic() - self._start_s) * 1e6)

    def _end(self) -> None:
        self._counters.in_flight -= 1
        self._board.wake()
