"""A client or a gateway that is gone, at every moment of a request: all pods let go of it.

Leases last ten minutes here where a pod can be told, so that nothing goes away by waiting.
"""

import asyncio
import random
from pathlib import Path

import psutil
import pytest
from chat_streams import ChatStream, ask_about
from fault_cluster import FaultCluster, fault_cluster
from fault_rows import Moment, two_chats
from simulated_cluster import until

from epd.vocabulary import Stage

MOMENTS = [moment for moment in Moment if moment is not Moment.DECODE_RESERVED]
PODS = ("e", "p", "d")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_client_that_leaves_frees_every_pod(tmp_path: Path, moment: Moment) -> None:
    async with fault_cluster(tmp_path, moment) as cluster:
        chats = two_chats(max_tokens=2000)
        running = cluster.begin(chats)
        await cluster.until_reached(moment, chats)
        for chat in running:
            chat.cancel()
        await cluster.until_nothing_is_held(*PODS)
        await assert_all_work_has_ended(cluster)


async def assert_all_work_has_ended(cluster: FaultCluster) -> None:
    """Check the counters: whatever was started has finished, failed or was cancelled."""
    for pod, load in (await cluster.counters.loads()).items():
        stages = {Stage.ENCODE: load.encode, Stage.PREFILL: load.prefill, Stage.DECODE: load.decode}
        for stage, counted in stages.items():
            ended = counted.finished_total + counted.failed_total + counted.cancelled_total
            assert counted.started_total == ended, (pod, stage, counted)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_gateway_that_is_killed_leaves_nothing_and_its_successor_serves(
    tmp_path: Path, moment: Moment
) -> None:
    async with fault_cluster(tmp_path, moment, short_leases="epd") as cluster:
        chats = two_chats(max_tokens=2000)
        running = cluster.begin(chats)
        await cluster.until_reached(moment, chats)
        cluster.gateway.kill()
        await asyncio.gather(*running)
        # The client is told that the connection broke; an answer cut short is no answer.
        assert all(chat.error and chat.said is None for chat in chats)
        await cluster.start_hurried_gateway()
        await cluster.until_nothing_is_held(*PODS)
        again = [ChatStream(ask_about(7, max_tokens=5, stream=stream)) for stream in (True, False)]
        await asyncio.gather(*cluster.begin(again))
        # Prefill or the KV handoff lasts for ever on some of these pods; it is done elsewhere.
        assert not any(chat.error for chat in again), again
        assert again[0].said == again[1].said


async def test_many_clients_that_leave_cost_no_file_descriptor_and_no_thread(
    tmp_path: Path,
) -> None:
    async with fault_cluster(tmp_path) as cluster:
        # Connections between pods stay once they were needed: they are none of the clients' doing.
        await asyncio.gather(*cluster.begin([*two_chats(), *two_chats()]))
        await cluster.until_nothing_is_held(*PODS)
        before = footprints(cluster)
        rng = random.Random(3)
        for _ in range(6):
            chats = [
                ChatStream(ask_about(n, n % 3, max_tokens=300, stream=n % 2 == 0))
                for n in range(12)
            ]
            running = cluster.begin(chats)
            await asyncio.sleep(0.4 * rng.random())  # wherever they have got to by then
            for chat in running:
                chat.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        await cluster.until_nothing_is_held(*PODS)
        await until(lambda: all(now <= was for now, was in pairs(footprints(cluster), before)))


def footprints(cluster: FaultCluster) -> list[tuple[int, int]]:
    """Return the open files and the threads of every process."""
    processes = [*cluster.workers.values(), cluster.gateway]
    alive = [psutil.Process(process.pid) for process in processes]
    return [(process.num_fds(), process.num_threads()) for process in alive]


def pairs(now: list[tuple[int, int]], was: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return each number of `now` with its number of `was`."""
    return [
        pair for one, other in zip(now, was, strict=True) for pair in zip(one, other, strict=True)
    ]
