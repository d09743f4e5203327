"""Simulated time: a heap of events, run in order of time, then of scheduling.

Equal histories follow from this order alone: no event depends on a hash, a set's order or a clock.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

Event = tuple[float, int, Callable[[Any], None], Any]


class Clock:
    """What time it is, and what happens next.

    Attributes:
        now_s: Seconds since the simulation began.
        events: Events that have happened.
    """

    __slots__ = ("_heap", "_order", "events", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._heap: list[Event] = []
        self._order = count()

    def at(self, time_s: float, call: Callable[[Any], None], argument: Any = None) -> None:
        """Have `call(argument)` happen at `time_s`; what is past happens now, after what is due."""
        heappush(self._heap, (max(time_s, self.now_s), next(self._order), call, argument))

    def after(self, delay_s: float, call: Callable[[Any], None], argument: Any = None) -> None:
        """Have `call(argument)` happen `delay_s` from now."""
        heappush(self._heap, (self.now_s + delay_s, next(self._order), call, argument))

    def run(self, until_s: float = float("inf"), enough: Callable[[], bool] | None = None) -> None:
        """Let events happen until none is left, `until_s` is reached, or `enough()` holds."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            time_s, _, call, argument = heappop(heap)
            self.now_s = time_s
            self.events += 1
            call(argument)
            if enough is not None and enough():
                return
