"""Whether the operator lives: by the progress of its work, not by the turns of an event loop."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from epd_operator import wakeups
from epd_operator.health import probe_routes
from epd_operator.objects import Key
from epd_operator.progress import SLACK_S, Progress
from epd_operator.wakeups import PASS_DEADLINE_S, Outcome, WakeUps

DEMO, OTHER = Key("default", "demo"), Key("default", "other")
RESYNC_S = 60


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def health(progress: Progress) -> tuple[int, str]:
    async with TestClient(TestServer(probe_routes(progress))) as client:
        answer = await client.get("/healthz")
        return answer.status, await answer.text()


async def until_idle(waking: WakeUps, passes: int) -> None:
    while waking.passes < passes:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_quiet_operator_is_alive_for_as_long_as_it_may_be_quiet(clock: Clock) -> None:
    async def look(key: Key) -> Outcome:
        return Outcome(look_again_s=RESYNC_S)

    progress = Progress(clock)
    waking = WakeUps(look, progress)
    waking.wake(DEMO)
    await until_idle(waking, 1)
    clock.now_s = RESYNC_S
    assert await health(progress) == (200, "ok\n")
    assert progress.latest[1] == 0
    await waking.close()
    clock.now_s = 1e6  # another leads: there is nothing to be late with
    assert progress.is_alive


async def test_a_pass_that_hangs_fails_the_probe_while_other_clusters_have_theirs(
    clock: Clock,
) -> None:
    never = asyncio.Event()

    async def look(key: Key) -> Outcome:
        if key == DEMO:
            await never.wait()
        return Outcome(look_again_s=RESYNC_S)

    progress = Progress(clock)
    waking = WakeUps(look, progress)
    waking.wake(DEMO)
    waking.wake(OTHER)
    await until_idle(waking, 2)
    clock.now_s = PASS_DEADLINE_S + SLACK_S - 1
    waking.wake(OTHER)
    while waking.passes < 3:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    assert progress.is_alive
    clock.now_s += 2
    status, said = await health(progress)
    assert status == 503
    assert "passes of default/demo" in said
    await waking.close()


async def test_whoever_waits_in_line_is_not_late_but_those_before_it_are(clock: Clock) -> None:
    never = asyncio.Event()

    async def look(key: Key) -> Outcome:
        await never.wait()
        return Outcome(look_again_s=RESYNC_S)

    progress = Progress(clock)
    waking = WakeUps(look, progress, concurrent_passes=1)
    waking.wake(DEMO)
    waking.wake(OTHER)
    await until_idle(waking, 1)
    clock.now_s = 1e6
    assert progress.latest[0] == "passes of default/demo"
    await waking.close()


async def test_a_pass_that_is_to_be_repeated_is_heard_of_again(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "FIRST_RETRY_S", 3600.0)

    async def look(key: Key) -> Outcome:
        return Outcome(look_again_s=0, has_failed=True)

    progress = Progress(clock)
    waking = WakeUps(look, progress)
    waking.wake(DEMO)
    await until_idle(waking, 1)
    clock.now_s = 3600
    assert progress.is_alive
    clock.now_s = 2 * 3600 + SLACK_S + 1
    assert not progress.is_alive
    await waking.close()


def test_work_that_has_ended_is_not_late(clock: Clock) -> None:
    progress = Progress(clock)
    progress.expect("the survey", 60)
    clock.now_s = 60 + SLACK_S + 1
    assert progress.latest == ("the survey", SLACK_S + 1)
    progress.forget("the survey")
    assert progress.latest == ("", 0)
