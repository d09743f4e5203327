"""A pod that is killed or frozen, before, during and after its handoff: the chats go on.

All of them end in the tokens of an undisturbed cluster, and nobody keeps anything of them.
"""

import asyncio
import signal
from pathlib import Path

import pytest
from chat_streams import Said
from fault_cluster import FaultCluster, Moment, fault_cluster, two_chats

KILLED, FROZEN = signal.SIGKILL, signal.SIGSTOP

CELLS = [
    ("e", "before", Moment.ENCODING),
    ("e", "during", Moment.EC_HANDOFF),
    ("e", "after", Moment.DECODING),
    ("p", "before", Moment.PREFILLING),
    ("p", "during", Moment.KV_HANDOFF),
    ("p", "after", Moment.DECODING),
    ("d", "before", Moment.DECODE_RESERVED),
    ("d", "during", Moment.KV_HANDOFF),
    ("d", "after", Moment.DECODING),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Said]:
    """What the two chats say in peace."""

    async def ask() -> list[Said]:
        async with fault_cluster(tmp_path_factory.mktemp("peace")) as cluster:
            chats = two_chats()
            await asyncio.gather(*cluster.begin(chats))
            await cluster.until_nothing_is_held("e", "p", "d")
        assert [chat.error for chat in chats] == ["", ""]
        return [chat.said for chat in chats if chat.said]

    return asyncio.run(ask())


@pytest.mark.parametrize("fault", [KILLED, FROZEN], ids=["killed", "frozen"])
@pytest.mark.parametrize(
    ("victim", "when", "moment"), CELLS, ids=[f"{victim}-{when}" for victim, when, _ in CELLS]
)
async def test_a_pod_that_fails_around_its_handoff_loses_no_chat(
    tmp_path: Path,
    undisturbed: list[Said],
    victim: str,
    when: str,
    moment: Moment,
    fault: signal.Signals,
) -> None:
    async with fault_cluster(tmp_path, moment) as cluster:
        chats = two_chats()
        running = cluster.begin(chats)
        await cluster.until_reached(moment, chats)
        cluster.workers[victim].send(fault)
        await asyncio.gather(*running)
        assert [chat.said or chat.error for chat in chats] == undisturbed
        if when == "after" and victim != "d":
            await assert_undisturbed(cluster, [chat.response_id for chat in chats])
        survivors = [pod for pod in "epd" if pod != victim]
        await cluster.until_nothing_is_held(*survivors)
        if fault is FROZEN:
            cluster.workers[victim].send(signal.SIGCONT)
            await cluster.until_nothing_is_held("e", "p", "d")
            await cluster.ready()


async def assert_undisturbed(cluster: FaultCluster, response_ids: list[str]) -> None:
    """Check the timelines: every stage was done by its own pod, at the first attempt."""
    for response_id in response_ids:
        stages = (await cluster.get(f"/requests/{response_id}"))["stages"]
        assert [s["pod"] for s in stages] == [s["stage"][0] for s in stages], stages
        assert not any(stage["failure"] for stage in stages), stages
