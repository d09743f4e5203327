"""A pod with a real engine that is killed or frozen around its handoff: the chats go on.

All of them end in the tokens that they get in peace, within their deadlines, and nobody keeps
anything of them: a frozen pod lets go when it goes on, a killed one comes back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from chat_streams import ChatStream
from fault_rows import KILLED, ROLES, ROWS, Row, assert_undisturbed
from real_faults import Missed, RealFaults
from running_cluster import Cluster

from epd_worker.engine.tiny_models import TinyKind

pytestmark = pytest.mark.vllm

ATTEMPTS = 3

# A killed pod takes its time to load its model again. These are seen where it is only frozen: all
# that the gateway knows of a pod before its handoff is that it does not answer.
LEFT_OUT = {"e-before-killed", "p-before-killed", "d-before-killed"}


@pytest.fixture(scope="module")
def cluster(vllm_cluster: Callable[[TinyKind], Cluster]) -> Cluster:
    """Three running pods."""
    return vllm_cluster(TinyKind.QWEN3_VL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faults(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealFaults]:
    """The pods in their roles, all of them ready before and after."""
    faults = RealFaults(cluster, tmp_path_factory.mktemp("faults"))
    await faults.start()
    yield faults
    await faults.end()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("row", [row for row in ROWS if str(row) not in LEFT_OUT], ids=str)
async def test_a_real_pod_that_fails_around_its_handoff_loses_no_chat(
    faults: RealFaults, row: Row
) -> None:
    try:
        chats = await strike(faults, row)
    finally:
        faults.thaw(row.victim)
    said = [chat.said or chat.error for chat in chats]
    if not row.disturbs:
        for chat in chats:
            assert_undisturbed(await faults.stages(chat), faults.pods)
    if row.fault is KILLED:
        await faults.until_nothing_is_held(*ROLES.keys() - {row.victim})
        await faults.until_its_files_are_gone()
    # Who read from a frozen pod cannot let go before the read has ended: it may yet be written to.
    await faults.until_whole()
    await faults.until_nothing_is_held(*ROLES)
    assert said == [chat.said for chat in await faults.in_peace(chats)]


async def strike(faults: RealFaults, row: Row) -> list[ChatStream]:
    """Have a row happen to two chats; return them when they have ended."""
    for attempt in range(ATTEMPTS):
        await faults.until_whole()
        # What nobody has asked before is in no cache.
        chats = faults.chats(1000 * (1 + ROWS.index(row)) + 10 * attempt, row.moment)
        try:
            async with faults.held_up(row, chats) as running:
                faults.strike(row.victim, row.fault)
            await asyncio.gather(*running)
            if not row.disturbs:
                await faults.require_in_time(chats, row)
            return chats
        except Missed as missed:
            print(missed)
    raise AssertionError(f"the chats could not be caught at {row.moment} in {ATTEMPTS} attempts")
