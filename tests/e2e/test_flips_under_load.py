"""A hundred flips among all seven roles while streams run: nothing is lost, all take effect.

A failure prints its seed; `EPD_FLIP_SEED` repeats it.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from chat_streams import ask_about
from flip_storm import FlipStorm, Summary, Target
from gateway_process import GatewayProcess
from pod_counters import PodCounters, pod_counters
from prometheus_client.parser import text_string_to_metric_families
from running_cluster import Cluster, manifest

from epd.vocabulary import Role
from epd_operator.local_roster import RosterFile
from epd_worker.engine.tiny_models import TinyKind

FLIPS = 100
CURVES = {
    # An image is worth a handoff, and no pod prefills many prompts at once: a burst of chats is too
    # much for any one pod, and what a flip offers is taken up soon.
    "encode": {"batch_ms": 4.0, "image_ms": [[1, 4.0]], "max_batch_images": 4},
    "prefill_ms": [[0, 10.0], [4096, 410.0]],
    "decode_step": {"batch_ms": [[1, 20.0], [32, 22.0]], "ms_per_1000_tokens": 0.0},
    "capacity": {"max_batch_tokens": 64},
}
SEED = int(os.environ.get("EPD_FLIP_SEED", random.SystemRandom().randrange(2**32)))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three pods with simulated engines."""
    folder = tmp_path_factory.mktemp("simulated")
    curves = folder / "curves.yaml"
    curves.write_text(yaml.safe_dump(CURVES))
    engine = {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}}
    cluster = Cluster(manifest("simulated", Path("simulated"), engine=engine), folder)
    cluster.start()
    yield cluster
    cluster.stop()


@asynccontextmanager
async def counters_of(cluster: Cluster) -> AsyncIterator[PodCounters]:
    async with pod_counters({pod.name: pod.address for pod in cluster.running.pods}) as counters:
        yield counters


def roles_of(cluster: Cluster) -> dict[str, Role]:
    workers = RosterFile(cluster.state.roster_file).read().workers
    return {worker.name: worker.role for worker in workers}


async def storm(cluster: Cluster, flips: int, asks: list[Any], *, covered: bool) -> Summary:
    """Flip the cluster with its own command; pods and gateway stay the processes they are."""

    async def flip(pod: str, role: Role) -> None:
        await asyncio.to_thread(cluster.flip, pod, role)

    async with counters_of(cluster) as counters:
        before = identities(cluster), await counters.descriptions()
        target = Target(cluster.running.gateway_url, cluster.running.model, counters, flip)
        run = FlipStorm(target, asks, roles_of(cluster)).run(SEED, flips, covered=covered)
        summary = await run
        assert (identities(cluster), await counters.descriptions()) == before
        await counters.until_nothing_is_held()
    print(f"seed {SEED}: {summary}")
    assert summary.flips == flips
    return summary


def identities(cluster: Cluster) -> list[tuple[str, int | None, int, frozenset[int]]]:
    """Return every process of every pod, and the gateway's."""
    running = cluster.running
    pods = [(pod.name, pod.process_id, pod.restarts) for pod in running.pods]
    gateway = ("gateway", running.gateway_process_id, 0)
    return [(*entry, descendants(entry[1])) for entry in (*pods, gateway)]


def descendants(process_id: int | None) -> frozenset[int]:
    return frozenset(child.pid for child in psutil.Process(process_id).children(recursive=True))


def counted(cluster: Cluster, name: str) -> float:
    """Return the sum of a counter of the gateway over all its labels."""
    text = httpx.get(f"{cluster.running.admin_url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def chats(count: int, max_tokens: int) -> list[Any]:
    """Return chats of text, one picture and two, all different."""
    return [ask_about(number, number % 3, max_tokens=max_tokens) for number in range(count)]


@pytest.mark.parametrize("covered", [True, False], ids=["covered", "overflowing"])
async def test_a_hundred_flips_of_simulated_pods_lose_nothing(
    simulated: Cluster, covered: bool
) -> None:
    overflows = counted(simulated, "epd_overflows_total")
    for pod, role in zip(simulated.pods, (Role.ENCODE, Role.PREFILL, Role.DECODE), strict=True):
        await asyncio.to_thread(simulated.flip, pod, role)
    summary = await storm(simulated, FLIPS, chats(48, 40), covered=covered)
    assert (summary.uncovered == 0) is covered
    assert (counted(simulated, "epd_overflows_total") == overflows) is covered
    for name in ("epd_replays_total", "epd_stage_retries_total", "epd_stage_failures_total"):
        assert counted(simulated, name) == 0


@pytest.mark.vllm
@pytest.mark.parametrize("covered", [True, False], ids=["covered", "overflowing"])
async def test_a_hundred_flips_of_real_engines_lose_nothing(
    vllm_cluster: Callable[[TinyKind], Cluster], covered: bool
) -> None:
    """Fifty flips of either kind make the hundred."""
    cluster = await asyncio.to_thread(vllm_cluster, TinyKind.QWEN3_VL)
    for pod, role in zip(cluster.pods, (Role.ENCODE, Role.PREFILL, Role.DECODE), strict=True):
        await asyncio.to_thread(cluster.flip, pod, role)
    received = await received_bytes(cluster)
    await storm(cluster, FLIPS // 2, chats(48, 24), covered=covered)
    assert all(
        now > before for now, before in zip(await received_bytes(cluster), received, strict=True)
    )
    # A retried stage is no fault: on a busy machine a real engine may miss a deadline.


async def received_bytes(cluster: Cluster) -> tuple[int, int]:
    """Return how much EC and KV all pods have taken from one another."""
    async with counters_of(cluster) as counters:
        loads = (await counters.loads()).values()
    ec = sum(load.ec_received_bytes_total for load in loads)
    return ec, sum(load.kv_received_bytes_total for load in loads)


@pytest.mark.parametrize(
    ("defect", "found"),
    [
        ("label_only", "broken|unproven"),
        ("gains_nothing", "broken|unproven"),
        ("loses_nothing", "broken"),
    ],
)
async def test_a_flip_that_does_not_take_effect_is_found(
    simulated: Cluster, tmp_path: Path, defect: str, found: str
) -> None:
    """The storm's own proof: a gateway that follows the roster in name only does not pass."""
    for pod, role in zip(simulated.pods, (Role.ENCODE, Role.PREFILL, Role.DECODE), strict=True):
        await asyncio.to_thread(simulated.flip, pod, role)
    roster = RosterFile(simulated.state.roster_file)
    gateway = GatewayProcess(roster.path, tmp_path / "gateway.log", {}, defect)

    async def flip(pod: str, role: Role) -> None:
        await asyncio.to_thread(simulated.flip, pod, role)
        await gateway.until_applied(roster.read().version)

    try:
        await gateway.start(roster.read().version)
        async with counters_of(simulated) as counters:
            target = Target(gateway.url, simulated.running.model, counters, flip)
            run = FlipStorm(target, chats(8, 40), roles_of(simulated)).run(7, 50, covered=True)
            with pytest.raises(AssertionError, match=found) as failure:
                await run
            await counters.until_nothing_is_held()
    finally:
        gateway.stop()
    assert "seed 7, flip " in str(failure.value)
