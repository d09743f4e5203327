"""The workers' own counters, read over `WatchLoad`, and what they say once nothing is held."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from epd.vocabulary import Stage
from epd.wire.messages import Description, Load, StageLoad
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient

# A pod that has just been started may be long in greeting whom it has let in.
PATIENTLY: Any = {"timeout": 60, "wait_for_ready": True}
"""A small machine is busy with the very streams that are watched."""


class PodCounters:
    """One client for each pod."""

    def __init__(self, clients: Mapping[str, WorkerClient]) -> None:
        self._clients = clients

    async def load(self, pod: str) -> Load:
        """Return the present load of one pod."""
        watch: Any = self._clients[pod].watch_load(10, **PATIENTLY)
        load: Load = await watch.read()
        watch.cancel()
        return load

    async def loads(self) -> dict[str, Load]:
        """Return the present loads of all pods."""
        loads = await asyncio.gather(*map(self.load, self._clients))
        return dict(zip(self._clients, loads, strict=True))

    async def descriptions(self) -> dict[str, Description]:
        """Return what each pod says it is."""
        calls = [c.describe(None, **PATIENTLY) for c in self._clients.values()]
        return dict(zip(self._clients, await asyncio.gather(*calls), strict=True))

    async def until(self, pod: str, holds: Callable[[Load], bool]) -> Load:
        """Watch one pod until something holds; the test's own time limit is the only one."""
        watch: Any = self._clients[pod].watch_load(10)
        try:
            async for load in watch:
                if holds(load):
                    found: Load = load
                    return found
        finally:
            watch.cancel()
        raise AssertionError(f"{pod} ended its watch")

    async def until_nothing_is_held(self, within_s: float = 30) -> None:
        """Wait until no pod works or holds anything; says what is still held after `within_s`."""
        deadline_s = time.monotonic() + within_s
        while held := {
            pod: kept for pod, load in (await self.loads()).items() if (kept := holds(load))
        }:
            assert time.monotonic() < deadline_s, f"still held: {held}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def pod_counters(addresses: Mapping[str, str]) -> AsyncIterator[PodCounters]:
    """Connect to pods by name and HOST:PORT."""
    channels = [
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        for address in addresses.values()
    ]
    clients = map(WorkerClient, channels)
    try:
        yield PodCounters(dict(zip(addresses, clients, strict=True)))
    finally:
        for channel in channels:
            await channel.close()


def of_stage(load: Load, stage: Stage) -> StageLoad:
    """Return the counters of one stage."""
    return {Stage.ENCODE: load.encode, Stage.PREFILL: load.prefill, Stage.DECODE: load.decode}[
        stage
    ]


def holds(load: Load) -> dict[str, int]:
    """Return all that a pod works on or keeps; nothing for an idle one."""
    kept = {
        f"{stage} in flight": of_stage(load, stage).waiting + of_stage(load, stage).running
        for stage in Stage
    }
    names = ("kv_leases", "ec_leases", "kv_used_permille", "ec_used_permille", "running_tokens")
    kept |= {name: getattr(load, name) for name in names}
    return {name: count for name, count in kept.items() if count}
