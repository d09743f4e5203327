"""The simulated engine's clockwork: who runs in which step."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from epd_worker.engine import EngineError
from epd_worker.engine.simulated_curves import load_curves
from epd_worker.engine.simulated_steps import Encoder, Job, KvPool, StepLoop


async def until(holds: Callable[[], bool]) -> None:
    """Give turns to the loop until something holds."""
    while not holds():  # noqa: ASYNC110 - turns are what is counted here
        await asyncio.sleep(0)


class Room:
    """A step loop without durations, and a log of the tokens it makes."""

    def __init__(self, *overrides: str) -> None:
        curves = load_curves(None, ["time_scale=0", "capacity.context_tokens=1", *overrides])
        self.pool = KvPool(curves.capacity.kv_tokens)
        self.steps = StepLoop(curves, self.pool)
        self.log: list[str] = []
        self._tasks: list[asyncio.Task[bool]] = []

    def start(
        self, name: str, *, prompt: int = 10, output: int = 3, priority: int = 0,
        taken: bool = False, first_only: bool = False,
    ) -> asyncio.Task[bool]:  # fmt: skip
        """Begin a job that logs its name at each token."""
        left = output

        def advance() -> bool:
            nonlocal left
            left -= 1
            self.log.append(name)
            return left == 0

        job = Job(
            prefill_tokens=0 if taken else prompt,
            context_tokens=prompt,
            reserved_tokens=prompt + output,
            advance=advance,
            first_only=first_only,
            done=asyncio.get_running_loop().create_future(),
        )
        task = asyncio.create_task(self.steps.run(job, priority))
        self._tasks.append(task)
        return task

    async def end(self) -> None:
        self.steps.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def new_room() -> AsyncIterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def make(*overrides: str) -> Room:
        rooms.append(Room(*overrides))
        return rooms[-1]

    yield make
    for room in rooms:
        await room.end()


async def test_every_running_job_gets_one_token_a_step_all_in_one_turn(
    new_room: Callable[..., Room],
) -> None:
    room = new_room()
    tasks = [room.start(name, output=4) for name in "abc"]
    seen = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        seen.append(len(room.log))
    assert set(seen) <= {0, 3, 6, 9, 12}
    assert "".join(room.log) == "abc" * 4


async def test_a_job_that_comes_later_joins_the_batch_that_runs(
    new_room: Callable[..., Room],
) -> None:
    room = new_room()
    first = room.start("a", output=50)
    await until(lambda: len(room.log) >= 5)
    assert await room.start("b", output=2)
    assert not first.done()


async def test_what_does_not_fit_into_the_kv_cache_waits(new_room: Callable[..., Room]) -> None:
    room = new_room("capacity.kv_tokens=20")
    tasks = [room.start(name, prompt=10, output=5) for name in "ab"]
    await asyncio.gather(*tasks)
    assert "".join(room.log) == "aaaaabbbbb"
    assert room.pool.used_tokens == 0


async def test_room_that_a_lease_gives_back_wakes_who_waits(new_room: Callable[..., Room]) -> None:
    room = new_room("capacity.kv_tokens=20")
    room.pool.reserve(15)
    task = room.start("a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert [job.prefill_tokens for job in room.steps.waiting()] == [10]
    room.pool.free(15)
    assert await task


async def test_no_more_jobs_run_than_the_engine_may(new_room: Callable[..., Room]) -> None:
    room = new_room("capacity.max_running=2")
    await asyncio.gather(*(room.start(name, output=2) for name in "abc"))
    assert "".join(room.log) == "ababcc"


async def test_a_lower_priority_number_goes_first(new_room: Callable[..., Room]) -> None:
    room = new_room("capacity.max_running=1")
    await asyncio.gather(
        *(room.start(name, output=1, priority=n) for name, n in (("a", 5), ("b", -1), ("c", 0)))
    )
    assert "".join(room.log) == "bca"


async def test_a_job_whose_kv_cache_has_come_goes_before_prompts(
    new_room: Callable[..., Room],
) -> None:
    room = new_room("capacity.max_running=1")
    await asyncio.gather(room.start("p", output=1), room.start("d", output=1, taken=True))
    assert "".join(room.log) == "dp"


async def test_a_long_prompt_is_computed_in_chunks_beside_decodes(
    new_room: Callable[..., Room],
) -> None:
    room = new_room("capacity.max_batch_tokens=10")
    short = room.start("s", prompt=5, output=20)
    await until(lambda: bool(room.log))
    assert await room.start("L", prompt=50, output=1)
    assert room.log.index("L") >= 6  # chunks of nine tokens, and a token of "s" beside each
    assert await short


async def test_a_prefill_for_elsewhere_ends_after_its_first_token(
    new_room: Callable[..., Room],
) -> None:
    room = new_room()
    assert await room.start("a", first_only=True) is False
    assert await room.start("b", first_only=True, output=1) is True
    assert room.log == ["a", "b"]
    assert room.pool.used_tokens == 0
    assert room.steps.running_tokens == 0


@pytest.mark.parametrize("after_tokens", [0, 3])
async def test_a_cancelled_job_frees_what_it_holds(
    new_room: Callable[..., Room], after_tokens: int
) -> None:
    room = new_room()
    task = room.start("a", output=10_000)
    await until(lambda: len(room.log) >= after_tokens)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (room.pool.used_tokens, room.steps.running_tokens) == (0, 0)
    assert await room.start("b")


async def test_an_idle_loop_has_no_timer(new_room: Callable[..., Room]) -> None:
    room = new_room()
    await room.start("a")
    assert room.steps._timer is None


async def test_closing_fails_the_jobs(new_room: Callable[..., Room]) -> None:
    room = new_room("capacity.max_running=1")
    running, waiting = room.start("a", output=10_000), room.start("b")
    await until(lambda: bool(room.log))
    room.steps.close()
    for task in (running, waiting):
        with pytest.raises(EngineError, match="shutting down"):
            await task


async def test_the_running_tokens_grow_with_each_step(new_room: Callable[..., Room]) -> None:
    room = new_room()
    tasks = [room.start(name, prompt=10, output=5) for name in "ab"]
    seen = set()
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        seen.add(room.steps.running_tokens)
    assert {20, 22, 24, 26} <= seen
    assert room.steps.running_tokens == 0


# --- the encoder -------------------------------------------------------------------------------


async def test_the_encoder_takes_as_many_images_at_once_as_it_may() -> None:
    encoder = Encoder(load_curves(None, ["time_scale=0", "encode.max_batch_images=2"]))
    tasks = [asyncio.create_task(encoder.run(100, 0)) for _ in range(5)]
    done = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        done.append(sum(task.done() for task in tasks))
    assert sorted({0, *done}) == [0, 2, 4, 5]


async def test_an_image_that_is_cancelled_while_it_waits_is_not_encoded() -> None:
    encoder = Encoder(load_curves(None, ["time_scale=0", "encode.max_batch_images=1"]))
    first, second, third = (asyncio.create_task(encoder.run(100, n)) for n in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert second.cancelled()
    assert encoder.waiting == 0


async def test_a_closed_encoder_fails_who_waits() -> None:
    encoder = Encoder(load_curves(None))
    tasks = [asyncio.create_task(encoder.run(100, 0)) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    encoder.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, EngineError)
