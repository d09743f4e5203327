"""`epd demo`: a cluster from nothing, chats with pictures, flips under load, and the proof.

Every claim of the last line is checked; if one does not hold, the exit status is 1.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass

from epd.api import EngineType
from epd.vocabulary import Stage
from epd_cli import demo_model
from epd_cli.demo_flips import Flipper, FlipRecord
from epd_cli.demo_result import Result
from epd_cli.demo_rotation import rotation
from epd_cli.demo_streams import Answer, Ask, Client, Slot, long_chats, plain_chats
from epd_cli.demo_timeline import LEGEND, draw_roles
from epd_cli.failures import CommandError
from epd_cli.interrupts import Interrupts
from epd_cli.local_plan import Plan, check_engine, check_model, make_plan
from epd_cli.tables import print_table
from epd_cli.timeline import summary, timeline_of
from epd_cli.up import banner, running
from epd_operator import local_probe
from epd_operator.local import LocalCluster
from epd_operator.local_roster import RosterFile
from epd_operator.local_state import RunningCluster

STREAMS = 8
STREAM_TOKENS = 192
ROTATIONS = 2


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 if nothing was lost."""
    # Any free port: the demo must not fail because something else listens on 8000.
    port = options.port if options.port is not None or options.keep else 0
    plan = make_plan(options.file, host=options.host, port=port)
    check_engine(plan.cluster)
    return asyncio.run(_demo(plan, keep=options.keep))


async def _demo(plan: Plan, *, keep: bool) -> int:
    finished = False
    with Interrupts() as interrupts:
        try:
            _step(1, "The model")
            await demo_model.ensure(plan.cluster)
            check_model(plan.cluster)
            _step(2, "The cluster: one gateway, and workers that are all alike")
            began_s = time.monotonic()
            async with running(plan, interrupts) as (cluster, local):
                demo = Demo(plan, cluster, local, await _sees_images(cluster))
                print(f"  ready after {time.monotonic() - began_s:.1f} s at {demo.base_url}")
                print(f"  watch it: {cluster.admin_url}/live, or epd top in another terminal")
                print(f"  dashboards: make dashboards-preview WATCH={plan.directory.targets_file}")
                try:
                    faults = await demo.run()
                finally:
                    await demo.client.close()
                finished = True
                if keep:
                    print(banner(cluster, plan, time.monotonic() - began_s), flush=True)
                    await local.watch()
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
            if not finished:
                return 130
    return 1 if faults else 0


def _step(number: int, title: str) -> None:
    print(f"\n{number}. {title}", flush=True)


async def _sees_images(cluster: RunningCluster) -> bool:
    async with local_probe.worker(cluster.pods[0].address) as client:
        description = await local_probe.describe(client)
    return description is not None and description.multimodal


@dataclass(slots=True)
class Undisturbed:
    """Streams that ran with nothing else going on: what the disturbed ones must equal."""

    slots: list[Slot]
    took_s: float


class Demo:
    """What is shown on a cluster that is up."""

    def __init__(
        self, plan: Plan, cluster: RunningCluster, local: LocalCluster, images: bool
    ) -> None:
        """Talk to `cluster`; `images` tells whether its model sees."""
        self.base_url = f"{cluster.gateway_url}/v1"
        self.client = Client(self.base_url, cluster.model)
        self._directory = plan.directory
        self._cluster = cluster
        self._local = local
        self._images = images
        # Where rounding depends on what else is in the batch, answers may differ at near ties.
        spec = plan.cluster.spec.engine
        self._exact = spec.type is EngineType.SIMULATED or any("float32" in a for a in spec.args)

    async def run(self) -> list[str]:
        """Run every step; return what did not hold."""
        _step(3, "Chats, through the openai client: which pod served which stage")
        await self._chats()
        _step(4, f"{STREAMS} streams with nothing else going on: the reference")
        undisturbed = await self._references()
        _step(5, "The same streams again and again, while pods change role")
        records, took_s = await self._flips(undisturbed)
        self._draw(records, took_s)
        _step(6, "The result")
        return self._verdict(undisturbed.slots, records)

    async def _chats(self) -> None:
        columns = ["REQUEST", "ENCODE", "PREFILL", "DECODE", "TTFT", "TOTAL", "TOKENS"]
        rows = []
        for ask in plain_chats(self._images):
            answer = await self.client.ask(ask)
            if answer.error:
                raise CommandError(f"a chat failed: {answer.error}")
            rows.append(await self._row(ask, answer))
        print_table(columns, rows, indent=2)

    async def _row(self, ask: Ask, answer: Answer) -> list[str]:
        records = await timeline_of(self._cluster.admin_url, answer.identifier)
        ttft = "-" if answer.ttft_ms is None else f"{answer.ttft_ms:.0f} ms"
        return [
            ask.title,
            *(summary(records, stage) for stage in Stage),
            ttft,
            f"{answer.took_ms:.0f} ms",
            str(answer.output_tokens),
        ]

    async def _references(self) -> Undisturbed:
        asks = long_chats(STREAMS, self._images, STREAM_TOKENS)
        began_s = time.monotonic()
        answers = await asyncio.gather(*(self.client.ask(ask) for ask in asks))
        took_s = time.monotonic() - began_s
        for answer in answers:
            if answer.error:
                raise CommandError(f"a reference stream failed: {answer.error}")
        tokens = sum(answer.output_tokens for answer in answers)
        print(f"  {tokens} tokens in {took_s:.1f} s")
        slots = [Slot(ask, answer) for ask, answer in zip(asks, answers, strict=True)]
        return Undisturbed(slots, took_s)

    async def _flips(self, undisturbed: Undisturbed) -> tuple[list[FlipRecord], float]:
        enough = asyncio.Event()
        began_s = time.monotonic()
        tasks = [
            asyncio.create_task(slot.repeat(self.client, enough)) for slot in undisturbed.slots
        ]
        try:
            await asyncio.sleep(min(1.0, undisturbed.took_s / 4))
            flipper = Flipper(
                self._directory,
                self.client,
                undisturbed.slots,
                began_s=began_s,
                images=self._images,
            )
            roster = RosterFile(self._directory.roster_file)
            records = []
            for _ in range(ROTATIONS):
                pods = roster.read().workers
                for index, role in rotation([pod.role for pod in pods]):
                    record = await flipper.flip(pods[index], role)
                    print(f"  {record}", flush=True)
                    records.append(record)
            print("  no more flips; the streams that run come to their end…", flush=True)
            enough.set()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return records, time.monotonic() - began_s

    def _draw(self, records: list[FlipRecord], took_s: float) -> None:
        initial = {pod.name: pod.role for pod in self._cluster.pods}
        flips = [(record.at_s, record.pod, record.after) for record in records]
        print(f"\n  roles over {took_s:.1f} s ({LEGEND})")
        for line in draw_roles(initial, flips, took_s):
            print(f"  {line}")

    def _verdict(self, slots: list[Slot], records: list[FlipRecord]) -> list[str]:
        result = Result(slots, records, self._cluster.pods, self._local.snapshot().pods)
        faults = result.faults(exact=self._exact)
        answers, same = result.answers, result.answers - result.different
        for fault in faults:
            print(f"  LOST  {fault}")
        print(f"  {same} of {answers} streams are identical to their reference, token for token")
        if result.different and not self._exact:
            print("  (the others are whole; with this dtype rounding depends on the batch)")
        if faults:
            return faults
        print(f"  every new role was served where it went: {len(records)} flips of running pods")
        pids = ", ".join(f"{pod.name} {pod.process_id}" for pod in self._cluster.pods)
        print(f"  every worker is still the process it was: {pids}")
        print(f"\nnothing lost: {answers} streams, {len(records)} flips, 0 errors")
        return []
