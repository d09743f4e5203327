"""The last known load of an engine core that nobody may keep awake.

Asking costs the core a turn, so it is asked while there is work, and afterwards until it keeps
nothing: what a request leaves behind (a read that must end first, an embedding that never arrives)
goes a moment or several seconds after the request itself and its leases.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from epd_worker.engine import EngineLoad

REFRESH_S: Final = 0.2
SLOWEST_REFRESH_S: Final = 5.0
"""Nothing but the end of what is left behind is waited for: it may be told late."""

_PAUSE_GROWTH: Final = 1.5


class LoadWatch:
    """Samples a load while it can change, then stops until the next `wake`."""

    def __init__(
        self,
        sample: Callable[[], Awaitable[EngineLoad | None]],
        is_busy: Callable[[], bool],
        refresh_s: float = REFRESH_S,
    ) -> None:
        """Start with no load, asleep.

        Args:
            sample: Asks the core; None says that it is gone.
            is_busy: Whether requests are in flight.
            refresh_s: Pause between two samples while the load changes.
        """
        self.latest = EngineLoad()
        self._sample = sample
        self._is_busy = is_busy
        self._refresh_s = refresh_s
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Sample soon and until the core keeps nothing; something has begun or been released."""
        self._woken.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Stop for good."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        pause_s = self._refresh_s
        while True:
            self._woken.clear()
            load = await self._sample()
            if load is None:
                return
            changed, self.latest = load != self.latest, load
            if self._is_busy():
                pause_s = self._refresh_s
                await asyncio.sleep(pause_s)
            elif holds_anything(load):
                longer_s = min(_PAUSE_GROWTH * pause_s, SLOWEST_REFRESH_S)
                pause_s = self._refresh_s if changed else longer_s
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), pause_s)
            else:
                return


def holds_anything(load: EngineLoad) -> bool:
    """Tell whether anything is left of any request; totals only grow and say nothing."""
    return replace(load, ec_received_bytes_total=0, kv_received_bytes_total=0) != EngineLoad()
