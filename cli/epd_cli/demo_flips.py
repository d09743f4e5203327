"""Flips pods while streams run, and looks in the workers' own counters for what came of it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from epd.vocabulary import Role, Stage
from epd.wire.messages import Load
from epd_cli.demo_streams import Client, Slot, probe
from epd_cli.failures import CommandError
from epd_cli.flip import flip_pod
from epd_cli.status import stage_load
from epd_operator import local_probe
from epd_operator.local_roster import RosterPod
from epd_operator.local_state import StateDirectory

PROBE_BURSTS: Final = (1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32)
"""Chats at once, sent after a flip until its pod has served its new stage; the first nearly always
does. Where another pod has that stage, too, and less to do, it takes more than it can bear."""

LOAD_WITHIN_S: Final = 20.0
"""A worker's counters; a small machine is busy with the very streams that are watched."""

SETTLE_S: Final = 0.25
"""What was placed just before a flip may start this much later."""


@dataclass(slots=True)
class FlipRecord:
    """One flip and what followed.

    Attributes:
        at_s: When, from the start of the streams.
        pod: Which pod.
        before: Its role before.
        after: Its role after.
        took_ms: Until the gateway had seen it.
        streams: Streams that ran at that moment.
        gained: Work it started of each stage that is new to it.
        lost: Work it still started of each stage that it is no longer offered.
        errors: What went wrong with the probes.
    """

    at_s: float
    pod: str
    before: Role
    after: Role
    took_ms: float
    streams: int
    gained: dict[Stage, int]
    lost: dict[Stage, int]
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        effects = [f"{stage} +{count}" for stage, count in (self.gained | self.lost).items()]
        return (
            f"{self.at_s:5.1f} s  {self.pod}: {self.before} → {self.after} in "
            f"{self.took_ms:.0f} ms while {self.streams} streams run; "
            f"work it began since: {', '.join(effects)}"
        )

    @property
    def took_effect(self) -> bool:
        """Tell whether the pod has served every stage that is new to it."""
        return all(self.gained.values())


class Flipper:
    """Flips the pods of one cluster, one at a time."""

    def __init__(
        self,
        directory: StateDirectory,
        client: Client,
        slots: Sequence[Slot],
        *,
        began_s: float,
        images: bool,
    ) -> None:
        """Work on the cluster of `directory`, whose streams run in `slots` since `began_s`."""
        self._directory = directory
        self._client = client
        self._slots = slots
        self._images = images
        self._began_s = began_s
        self._probes = 0

    async def flip(self, pod: RosterPod, role: Role) -> FlipRecord:
        """Flip one pod and send chats until its counters show the new role."""
        streams = sum(slot.running for slot in self._slots)
        at_s = time.monotonic() - self._began_s
        done = await flip_pod(self._directory, pod.name, role)
        await asyncio.sleep(SETTLE_S)
        before, now = done.flip.before.stages, role.stages
        record = FlipRecord(
            at_s,
            pod.name,
            done.flip.before,
            role,
            done.took_ms,
            streams,
            gained=dict.fromkeys(sorted(now - before), 0),
            lost=dict.fromkeys(sorted(before - now), 0),
        )
        first = await load_of(pod)
        for count in PROBE_BURSTS:
            numbers = range(self._probes, self._probes + count)
            self._probes += count
            asks = [self._client.ask(probe(number, self._images)) for number in numbers]
            record.errors += [each.error for each in await asyncio.gather(*asks) if each.error]
            _count(record, first, await load_of(pod))
            if record.took_effect:
                break
        return record


def _count(record: FlipRecord, first: Load, now: Load) -> None:
    for counts in (record.gained, record.lost):
        for stage in counts:
            started = stage_load(now, stage).started_total - stage_load(first, stage).started_total
            counts[stage] = started


async def load_of(pod: RosterPod) -> Load:
    """Return a worker's counters.

    Raises:
        CommandError: It does not answer.
    """
    async with local_probe.worker(pod.address) as client:
        load = await local_probe.load(client, LOAD_WITHIN_S)
    if load is None:
        raise CommandError(f"worker {pod.name} at {pod.address} does not answer")
    return load
