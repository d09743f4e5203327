"""When passes run: soon, one at a time, and again after a failure."""

import asyncio

from epd_operator.objects import Key
from epd_operator.wakeups import Outcome, WakeUps

KEY = Key("default", "demo")
DONE = Outcome(look_again_s=1000)


class Passes:
    """Counts passes, and ends each as told."""

    def __init__(self) -> None:
        self.made = 0
        self.running = 0
        self.most_running = 0
        self.outcomes: list[Outcome] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Condition()

    async def __call__(self, key: Key) -> Outcome:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        async with self.changed:
            self.made += 1
            self.changed.notify_all()
        await self.gate.wait()
        self.running -= 1
        return self.outcomes.pop(0) if self.outcomes else DONE

    async def until(self, made: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.made >= made)


async def test_many_wake_ups_during_a_pass_become_one_more() -> None:
    passes = Passes()
    passes.gate.clear()
    wakeups = WakeUps(passes)
    wakeups.wake(KEY)
    await passes.until(1)
    for _ in range(50):
        wakeups.wake(KEY)
    passes.gate.set()
    await passes.until(2)
    await asyncio.sleep(0.2)
    assert (passes.made, passes.most_running) == (2, 1)
    await wakeups.close()


async def test_a_failed_pass_is_repeated_by_itself() -> None:
    passes = Passes()
    passes.outcomes = [Outcome(look_again_s=1000, has_failed=True)]
    wakeups = WakeUps(passes)
    wakeups.wake(KEY)
    await passes.until(2)
    assert wakeups.failures == 1
    await wakeups.close()


async def test_a_pass_that_asks_for_another_gets_it() -> None:
    passes = Passes()
    passes.outcomes = [Outcome(look_again_s=0.01)]
    wakeups = WakeUps(passes)
    wakeups.wake(KEY)
    await passes.until(2)
    await wakeups.close()


async def test_a_fault_in_one_cluster_does_not_stop_the_others() -> None:
    passes = Passes()

    async def run(key: Key) -> Outcome:
        if key == KEY:
            raise ValueError("a fault of ours")
        return await passes(key)

    wakeups = WakeUps(run)
    wakeups.wake(KEY)
    wakeups.wake(Key("default", "other"))
    await passes.until(1)
    assert wakeups.failures == 1
    await wakeups.close()


async def test_a_cluster_that_is_gone_is_forgotten_and_may_come_back() -> None:
    passes = Passes()
    passes.outcomes = [Outcome(look_again_s=0, is_gone=True)]
    wakeups = WakeUps(passes)
    wakeups.wake(KEY)
    await passes.until(1)
    while wakeups.clusters:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    wakeups.wake(KEY)
    await passes.until(2)
    assert wakeups.clusters == 1
    await wakeups.close()
