"""Faults of three pods with real engines, one a stage, that can be caught at any moment of a chat.

A real engine cannot be told to take its time. What holds a moment up is a pod that is stopped: the
one whose turn comes next. It goes on once the fault has happened, unless it is the victim itself.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import shared_memory
from chat_streams import ChatStream, ask_about, client_of
from fault_rows import PICTURES, ROLES, Moment, Row
from gateway_process import GatewayProcess
from pod_counters import PodCounters, holds, pod_counters
from running_cluster import Cluster
from simulated_cluster import until

from epd.vocabulary import Stage
from epd_cli.demo_streams import Ask

SETTINGS = {
    "deadlines.encode_s": 5,
    "deadlines.prefill_s": 5,
    "deadlines.decode_idle_s": 5,
    "deadlines.request_s": 100,
    # A stopped pod is not doubted before the moment has come.
    "workers.probe_timeout_s": 6,
    "workers.lost_after_s": 6,
    "workers.suspect_s": 0.5,
    # A busy machine may miss deadlines as well.
    "retries.max_stage_retries": 3,
    "retries.max_replays": 4,
}
REACHED_WITHIN_S = 20
LOOKS_EVERY_S = 0.005
BACK_WITHIN_S = 400
"""A killed pod loads its model again, which a busy machine does in minutes."""

SHORT_TOKENS, LONG_TOKENS = 12, 600

InFlight = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class HoldUp:
    """What makes a moment last.

    Attributes:
        pod: It is stopped.
        waits: Whether it is the moment, by what the gateway has in flight.
    """

    pod: str
    waits: Callable[[InFlight], bool]


def _in_flight(pod: str, stage: Stage, count: int) -> Callable[[InFlight], bool]:
    return lambda busy: busy[pod].get(stage, 0) == count


def _all_decode(busy: InFlight) -> bool:
    # Room for a decode is reserved, and counted, while its prompt is prefilled.
    return not busy["p"] and busy["d"].get(Stage.DECODE, 0) == len(PICTURES)


_PREFILLING = _in_flight("p", Stage.PREFILL, len(PICTURES))
_HOLD_UPS = {
    Moment.ENCODING: HoldUp("e", _in_flight("e", Stage.ENCODE, sum(PICTURES))),
    Moment.EC_HANDOFF: HoldUp("p", _PREFILLING),
    Moment.PREFILLING: HoldUp("p", _PREFILLING),
    Moment.DECODE_RESERVED: HoldUp("p", _PREFILLING),
    Moment.KV_HANDOFF: HoldUp("d", _all_decode),
    Moment.DECODING: HoldUp("d", _all_decode),
}
_BEFORE_DECODING = (Moment.PREFILLING, Moment.KV_HANDOFF)


class Unsalted(Ask):
    """A chat as long as it may be."""

    salt = ""

    def body(self, model: str) -> dict[str, Any]:
        """Return the arguments of the client's call."""
        salt = {"cache_salt": self.salt} if self.salt else {}
        return {**super().body(model), "extra_body": {"ignore_eos": True, **salt}}


class Salted(Unsalted):
    """The same, with nothing of its prompt taken from a cache that others have filled."""

    salt = "peace"


class Missed(Exception):
    """The chats were past the moment, or never came to it: the machine was too busy."""


class RealFaults:
    """Three pods of a running cluster, and a gateway of the test's own in a hurry."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self.gateway = GatewayProcess(cluster.state.roster_file, folder / "gateway.log", SETTINGS)
        self.pods = dict(zip(ROLES, cluster.pods, strict=True))
        self._stopped: dict[str, list[psutil.Process]] = {}
        self._files: set[str] = set()
        self._openai: openai.AsyncOpenAI
        # One for all questions: to make a client takes longer than a moment lasts.
        self._admin = httpx.AsyncClient(
            base_url=self.gateway.admin_url, trust_env=False, timeout=30
        )
        self._chats: list[asyncio.Task[ChatStream]] = []

    async def start(self) -> None:
        """Give every pod its role, and start the gateway."""
        for letter, role in ROLES.items():
            await asyncio.to_thread(self._cluster.flip, self.pods[letter], role)
        await self.gateway.start()
        self._openai = client_of(self.gateway.url)

    async def end(self) -> None:
        """Let every pod go on, and wait until the cluster is whole again."""
        for letter in list(self._stopped):
            self.thaw(letter)
        await self.hang_up()
        await self.until_whole()
        await self._openai.close()
        await self._admin.aclose()
        self.gateway.stop()

    # Pods.

    def strike(self, letter: str, fault: signal.Signals) -> None:
        """Kill a pod, or stop it."""
        victim = psutil.Process(self._process_id(letter))
        family = [victim, *victim.children(recursive=True)]
        self._files = shared_memory.files_of(process.pid for process in family)
        if fault is signal.SIGSTOP:
            self.freeze(letter)
        else:
            self._stopped.pop(letter, None)
            os.kill(self._process_id(letter), fault)

    def freeze(self, letter: str) -> None:
        """Stop every process of a pod; harmless if it is stopped."""
        worker = psutil.Process(self._process_id(letter))
        self._stopped[letter] = [worker, *worker.children(recursive=True)]
        for process in self._stopped[letter]:
            process.suspend()

    def thaw(self, letter: str) -> None:
        """Let a pod go on; harmless if it runs or is gone."""
        for process in self._stopped.pop(letter, ()):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    async def until_whole(self) -> None:
        """Wait until every pod is ready, and trusted by the gateway."""

        async def is_whole() -> bool:
            workers = (await self._get("/roster"))["workers"]
            trusted = [w for w in workers if w["healthy"] and not w["suspect"]]
            return len(trusted) == len(self.pods)

        await until(is_whole, BACK_WITHIN_S)

    async def until_its_files_are_gone(self) -> None:
        """Wait until nothing is left of the shared memory of the pod that was struck last."""
        await until(lambda: not self._files & shared_memory.files())

    def _process_id(self, letter: str) -> int:
        pod = next(pod for pod in self._cluster.running.pods if pod.name == self.pods[letter])
        assert pod.process_id is not None, pod
        return pod.process_id

    # Chats.

    def chats(self, number: int, moment: Moment) -> list[ChatStream]:
        """Return a chat that is streamed and one that is not, long enough for the moment."""
        length = LONG_TOKENS if moment is Moment.DECODING else SHORT_TOKENS
        asks = [ask_about(number + n, n, max_tokens=length, stream=n == 1) for n in PICTURES]
        return [ChatStream(Unsalted(a.prompt, a.pictures, length, a.stream)) for a in asks]

    async def in_peace(self, chats: Sequence[ChatStream]) -> list[ChatStream]:
        """Return the same chats, held again."""
        again = [
            ChatStream(Salted(c.ask.prompt, c.ask.pictures, c.ask.max_tokens, c.ask.stream))
            for c in chats
        ]
        await asyncio.gather(*self.begin(again))
        return again

    def begin(self, chats: Sequence[ChatStream]) -> list["asyncio.Task[ChatStream]"]:
        """Begin chats."""
        model = self._cluster.running.model
        running = [asyncio.create_task(chat.run(self._openai, model)) for chat in chats]
        self._chats += running
        return running

    async def hang_up(self) -> None:
        """Cancel the chats that still run."""
        for chat in self._chats:
            chat.cancel()
        await asyncio.gather(*self._chats, return_exceptions=True)
        self._chats.clear()

    @asynccontextmanager
    async def held_up(
        self, row: Row, chats: Sequence[ChatStream]
    ) -> AsyncIterator[list["asyncio.Task[ChatStream]"]]:
        """Hold chats up at a row's moment for the time of the block; Missed if that failed."""
        moment, hold_up = row.moment, _HOLD_UPS[row.moment]
        # A small machine hardly prefills while it decodes: chats that are to decode together are
        # held up before they do.
        before = [_HOLD_UPS[m] for m in _BEFORE_DECODING] if moment is Moment.DECODING else []
        if not before:
            self.freeze(hold_up.pod)
        running = self.begin(chats)
        try:
            async with asyncio.timeout(REACHED_WITHIN_S):
                await self._pass(before, chats)
                await self._until(hold_up, chats)
                if moment is Moment.DECODING:
                    await chats[0].until_pieces(3)
                    await self._until_kv_is_taken()
                    self.freeze(hold_up.pod)
            if any(chat.ended for chat in chats):
                raise Missed
        except (TimeoutError, Missed):
            busy = await self._in_flight()
            for letter in list(self._stopped):
                self.thaw(letter)
            await self.hang_up()
            said = [chat.error or chat.said or len(chat.pieces) for chat in chats]
            raise Missed(f"not caught at {moment}: {said}; in flight: {busy}") from None
        yield running
        if hold_up.pod != row.victim:
            self.thaw(hold_up.pod)

    async def _pass(self, hold_ups: Sequence[HoldUp], chats: Sequence[ChatStream]) -> None:
        """Hold chats up at one moment after the other, then let them go."""
        for earlier, hold_up in zip([None, *hold_ups], hold_ups, strict=False):
            self.freeze(hold_up.pod)
            if earlier is not None:
                self.thaw(earlier.pod)
            await self._until(hold_up, chats)
        if hold_ups:
            self.thaw(hold_ups[-1].pod)

    async def _until(self, hold_up: HoldUp, chats: Sequence[ChatStream]) -> None:
        """Wait for a moment; Missed if a chat ended before."""
        while not hold_up.waits(await self._in_flight()):
            if any(chat.ended for chat in chats):
                raise Missed
            await asyncio.sleep(LOOKS_EVERY_S)

    async def _until_kv_is_taken(self) -> None:
        async with self._counters("p") as counters:
            await counters.until("p", lambda load: not load.kv_leases)

    async def _in_flight(self) -> InFlight:
        """Return what the gateway has in flight, by pod and stage."""
        workers = {w["name"]: w["in_flight"] for w in (await self._get("/roster"))["workers"]}
        return {
            letter: {stage: n for stage, n in workers.get(pod, {}).items() if n}
            for letter, pod in self.pods.items()
        }

    async def _get(self, path: str) -> Any:
        return (await self._admin.get(path)).raise_for_status().json()

    async def stages(self, chat: ChatStream) -> list[dict[str, object]]:
        """Return the timeline of a chat."""
        stages: list[dict[str, object]] = (await self._get(f"/requests/{chat.response_id}"))[
            "stages"
        ]
        return stages

    async def require_in_time(self, chats: Sequence[ChatStream], row: Row) -> None:
        """Missed if what held the chats up did so for longer than a stage may take."""
        held_up = self.pods[_HOLD_UPS[row.moment].pod]
        for chat in chats:
            for stage in await self.stages(chat):
                if stage["pod"] == held_up and stage["failure"] == "deadline":
                    raise Missed(f"held up for too long at {row.moment}")

    # What is left.

    async def until_nothing_is_held(self, *letters: str) -> None:
        """Wait until these pods work on nothing and keep nothing, nor the gateway of them."""
        held: dict[str, object] = {}
        async with self._counters(*letters) as counters:

            async def nothing_is_held() -> bool:
                loads = await counters.loads()
                held.clear()
                held.update({pod: holds(load) for pod, load in loads.items() if holds(load)})
                held["gateway"] = {k: v for k, v in (await self._in_flight()).items() if v}
                return not any(held.values())

            try:
                await until(nothing_is_held)
            except TimeoutError:
                raise AssertionError(f"still held: {held}") from None

    def _counters(self, *letters: str) -> AbstractAsyncContextManager[PodCounters]:
        running = {pod.name: pod.address for pod in self._cluster.running.pods}
        return pod_counters({letter: running[self.pods[letter]] for letter in letters})
