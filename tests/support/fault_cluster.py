"""Three simulated pods, one a stage, that can be caught at any moment of a request.

Whatever shall be interrupted takes for ever on the pod where it happens, so that no test depends
on how fast the machine is. Leases of pods that can be told to release outlast every test: what a
request leaves behind there stays, and is found.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import yaml
from chat_streams import ChatStream, client_of
from fault_rows import PICTURES, ROLES, Moment
from pod_counters import PodCounters, holds, of_stage, pod_counters
from simulated_cluster import MODEL, SimulatedCluster, until

from epd.vocabulary import Stage
from epd.wire.messages import Load

FOREVER_MS = 600_000
LEASE_S = 600
SHORT_LEASE_S = 3
DEADLINES = (
    "deadlines.connect_s=1",
    "deadlines.encode_s=2",
    "deadlines.prefill_s=2",
    "deadlines.decode_idle_s=2",
    "deadlines.request_s=30",
    "workers.probe_interval_s=0.2",
    "workers.probe_timeout_s=0.4",
    "workers.lost_after_s=1",
    "workers.suspect_s=0.5",
)
QUICK: Mapping[str, Any] = {
    "encode": {"batch_ms": 2.0, "image_ms": [[1, 1.0]]},
    "prefill_ms": [[0, 2.0]],
    "decode_step": {"batch_ms": [[1, 20.0]]},
    "handoff": {"fixed_ms": 0.3},
}


# Which pod lets a moment last, and how.
_HELD_UP: Mapping[Moment, tuple[str, Mapping[str, Any]]] = {
    Moment.ENCODING: ("e", {"encode": {"batch_ms": FOREVER_MS}}),
    Moment.EC_HANDOFF: ("e", {"handoff": {"fixed_ms": FOREVER_MS}}),
    Moment.PREFILLING: ("p", {"prefill_ms": [[0, FOREVER_MS]]}),
    Moment.DECODE_RESERVED: ("p", {"prefill_ms": [[0, 500]]}),
    Moment.KV_HANDOFF: ("p", {"handoff": {"fixed_ms": FOREVER_MS}}),
    Moment.DECODING: ("d", {"decode_step": {"batch_ms": [[1, 60.0]]}}),
}


class FaultCluster(SimulatedCluster):
    """Pods `e`, `p` and `d`, named for their stages, and a gateway in a hurry."""

    counters: PodCounters
    openai: openai.AsyncOpenAI

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._clients: list[openai.AsyncOpenAI] = []
        self._chats: list[asyncio.Task[ChatStream]] = []

    async def start_for(self, moment: Moment | None = None, short_leases: str = "") -> None:
        """Start all of it; see `fault_cluster`."""
        slow, how = _HELD_UP[moment] if moment else ("", {})
        for name in ROLES:
            curves = {**QUICK, **how} if name == slow else QUICK
            lease_s = str(SHORT_LEASE_S if name in short_leases else LEASE_S)
            options = ("--kv-lease-s", lease_s, "--ec-lease-s", lease_s)
            self.start_worker(name, yaml.safe_dump(curves), *options)
        for name, role in ROLES.items():
            await self.join(name, role)
        await self.start_hurried_gateway()

    async def start_hurried_gateway(self) -> None:
        """Start a gateway with short deadlines."""
        await self.start_gateway(*DEADLINES)
        self.openai = client_of(self.url)
        self._clients.append(self.openai)

    def begin(self, chats: Sequence[ChatStream]) -> list["asyncio.Task[ChatStream]"]:
        """Begin chats; each is a task that may be cancelled, as a client that leaves."""
        running = [asyncio.create_task(chat.run(self.openai, MODEL)) for chat in chats]
        self._chats += running
        return running

    async def hang_up(self) -> None:
        """Cancel what still runs, and close every connection."""
        for chat in self._chats:
            chat.cancel()
        await asyncio.gather(*self._chats, return_exceptions=True)
        for client in self._clients:
            await client.close()

    async def until_reached(self, moment: Moment, chats: Sequence[ChatStream]) -> None:
        """Wait until the two chats have come to `moment`."""
        match moment:
            case Moment.ENCODING:
                await self._until_in_flight("e", Stage.ENCODE, sum(PICTURES))
            case Moment.EC_HANDOFF | Moment.DECODE_RESERVED:
                await self._until_in_flight("p", Stage.PREFILL, len(chats))
            case Moment.PREFILLING:
                await self._until_in_flight("p", Stage.PREFILL, len(chats))
                await self.counters.until("p", lambda load: load.running_tokens > 0)
            case Moment.KV_HANDOFF:
                await self._until_in_flight("d", Stage.DECODE, len(chats))
            case Moment.DECODING:
                await self._until_in_flight("d", Stage.DECODE, len(chats))
                await chats[0].until_pieces(3)
        ended = [chat.error or chat.said for chat in chats if chat.ended]
        if ended:
            raise AssertionError(f"ended before {moment}: {ended}")

    async def _until_in_flight(self, pod: str, stage: Stage, count: int) -> None:
        def are_in_flight(load: Load) -> bool:
            counted = of_stage(load, stage)
            return counted.waiting + counted.running == count

        await self.counters.until(pod, are_in_flight)

    async def until_nothing_is_held(self, *pods: str) -> None:
        """Wait until these pods work on nothing and keep nothing, nor the gateway of them."""

        async def nothing_is_held() -> bool:
            loads = [await self.counters.load(pod) for pod in pods]
            return not any(map(holds, loads)) and not await self.gateway_in_flight()

        await until(nothing_is_held)

    async def gateway_in_flight(self) -> int:
        """Return how many stages the gateway believes to be in flight."""
        workers = (await self.get("/roster"))["workers"]
        return sum(sum(worker["in_flight"].values()) for worker in workers)


@asynccontextmanager
async def fault_cluster(
    folder: Path, moment: Moment | None = None, short_leases: str = ""
) -> AsyncIterator[FaultCluster]:
    """Give a cluster that is killed afterwards, frozen pods included.

    Args:
        folder: Where its files go.
        moment: Lasts on this cluster; None: nothing is held up.
        short_leases: The pods that nobody may be able to tell what to release.
    """
    cluster = FaultCluster(folder)
    try:
        await cluster.start_for(moment, short_leases)
        async with pod_counters(cluster.addresses) as cluster.counters:
            yield cluster
    finally:
        await cluster.hang_up()
        cluster.kill()
