"""The load of a real engine core: asked for as long as it can change, and then left asleep."""

import asyncio
from collections import deque

import pytest

from epd_worker.engine import EngineLoad
from epd_worker.engine.vllm_load import LoadWatch

IDLE = EngineLoad(ec_received_bytes_total=9, kv_received_bytes_total=9)
FADING = [
    EngineLoad(kv_leases=1, kv_used_permille=5),
    EngineLoad(kv_used_permille=5),
    EngineLoad(kv_used_permille=5),
    EngineLoad(ec_used_permille=3),
    IDLE,
]


class Core:
    """An engine core that says one load after the other, then the last one for ever."""

    def __init__(self, *loads: EngineLoad | None) -> None:
        self.loads = deque(loads)
        self.asked = 0
        self.busy = False
        self.watch = LoadWatch(self.sample, lambda: self.busy, refresh_s=0.001)

    async def sample(self) -> EngineLoad | None:
        self.asked += 1
        return self.loads.popleft() if len(self.loads) > 1 else self.loads[0]

    async def until_asleep(self) -> None:
        assert self.watch._task is not None
        await self.watch._task


async def test_what_is_left_after_the_leases_is_watched_until_it_is_gone() -> None:
    core = Core(*FADING)
    core.watch.wake()
    await core.until_asleep()
    assert core.watch.latest == IDLE
    assert core.asked == len(FADING)


async def test_an_idle_core_is_asked_once_and_left_asleep() -> None:
    core = Core(IDLE)
    core.watch.wake()
    await core.until_asleep()
    assert core.asked == 1


async def test_a_core_that_is_busy_is_asked_even_if_it_shows_nothing() -> None:
    core = Core(IDLE)
    core.busy = True
    core.watch.wake()
    while core.asked < 3:  # noqa: ASYNC110 - a count is no event
        await asyncio.sleep(0)
    core.busy = False
    await core.until_asleep()


async def test_new_work_is_seen_at_once_though_something_is_left_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("epd_worker.engine.vllm_load._PAUSE_GROWTH", 1e9)
    monkeypatch.setattr("epd_worker.engine.vllm_load.SLOWEST_REFRESH_S", 1e6)
    left = EngineLoad(ec_used_permille=3)
    core = Core(left)
    core.watch.wake()
    while core.asked < 2:  # noqa: ASYNC110 - a count is no event
        await asyncio.sleep(0)
    core.loads = deque([IDLE])
    core.watch.wake()
    await core.until_asleep()
    assert core.watch.latest == IDLE


async def test_a_core_that_is_gone_is_not_asked_again() -> None:
    core = Core(EngineLoad(kv_leases=1), None)
    core.watch.wake()
    await core.until_asleep()
    assert core.asked == 2
