"""A pod that is killed or frozen, before, during and after its handoff: the chats go on.

All of them end in the tokens of an undisturbed cluster, and nobody keeps anything of them.
"""

import asyncio
import signal
from pathlib import Path

import pytest
from chat_streams import Said
from fault_cluster import fault_cluster
from fault_rows import FROZEN, ROLES, ROWS, Row, assert_undisturbed, two_chats


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Said]:
    """What the two chats say in peace."""

    async def ask() -> list[Said]:
        async with fault_cluster(tmp_path_factory.mktemp("peace")) as cluster:
            chats = two_chats()
            await asyncio.gather(*cluster.begin(chats))
            await cluster.until_nothing_is_held(*ROLES)
        assert [chat.error for chat in chats] == ["", ""]
        return [chat.said for chat in chats if chat.said]

    return asyncio.run(ask())


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_pod_that_fails_around_its_handoff_loses_no_chat(
    tmp_path: Path, undisturbed: list[Said], row: Row
) -> None:
    async with fault_cluster(tmp_path, row.moment) as cluster:
        chats = two_chats()
        running = cluster.begin(chats)
        await cluster.until_reached(row.moment, chats)
        cluster.workers[row.victim].send(row.fault)
        await asyncio.gather(*running)
        assert [chat.said or chat.error for chat in chats] == undisturbed
        if not row.disturbs:
            for chat in chats:
                timeline = await cluster.get(f"/requests/{chat.response_id}")
                assert_undisturbed(timeline["stages"], {pod: pod for pod in ROLES})
        await cluster.until_nothing_is_held(*ROLES.keys() - {row.victim})
        if row.fault is FROZEN:
            cluster.workers[row.victim].send(signal.SIGCONT)
            await cluster.until_nothing_is_held(*ROLES)
            await cluster.ready()
