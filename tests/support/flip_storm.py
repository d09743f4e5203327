"""Random flips under running streams, and the proof that each of them took effect.

A flip is proven from the workers' own counters. Once it is done and what was placed before it has
reached its pods, no pod starts work of a stage that another pod is offered and it is not; the
flipped pod starts work of every stage it gained; and of every stage it lost, others start some.
Chats sent for the purpose, more and more at once, see to it that there is work of every stage, and
too much of it for any one pod.

One thing no chat can force: a pod that alone does what the others do not (say, the only one that
generates, between two idle encoders) is rightly spared the work that they can take off it. A gain
that stays unproven for that reason is counted, and few of them are allowed.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chat_streams import ChatStream, Said, ask_about, client_of, numbers
from pod_counters import PodCounters, of_stage

from epd.vocabulary import Role, Stage
from epd.wire.messages import Load
from epd_cli.demo_streams import Ask

STREAMS = 18
LEAST_STREAMS = 16
PROBE_BURSTS = (2, 4, 8, 16, 32, 64, 128)
"""Chats at once, half of them text, to be prefilled at once, and half with two unseen pictures, for
no pod fuses so many encodes into one prefill."""

SPARED_SHARE = 0.1
"""Flips whose gain may stay unproven, for the pod was the busiest."""

AT_ONCE_IN_PEACE = 6

OTHERS_START = 3
"""Work of a lost stage that must be seen elsewhere before the flipped pod's none means anything."""

Started = Mapping[tuple[str, Stage], int]


@dataclass(frozen=True)
class Target:
    """A cluster under test.

    Attributes:
        gateway_url: Base of the OpenAI routes, without `/v1`.
        model: The served model name.
        counters: The workers' own counters.
        flip: Changes a pod's role; returns once the flip is done.
    """

    gateway_url: str
    model: str
    counters: PodCounters
    flip: Callable[[str, Role], Awaitable[None]]


@dataclass(frozen=True)
class Flip:
    """One role change, and the roles of all pods after it."""

    number: int
    pod: str
    before: Role
    roles: Mapping[str, Role]

    def __str__(self) -> str:
        roles = ", ".join(f"{pod} {role}" for pod, role in self.roles.items())
        return f"flip {self.number}: {self.pod} {self.before} -> {self.roles[self.pod]} ({roles})"

    def offering(self, stage: Stage) -> list[str]:
        """Return the pods that are offered a stage."""
        return [pod for pod, role in self.roles.items() if stage in role.stages]

    @property
    def gained(self) -> frozenset[Stage]:
        """Stages that are new to the pod."""
        return self.roles[self.pod].stages - self.before.stages

    @property
    def lost(self) -> frozenset[Stage]:
        """Stages that the pod is no longer offered."""
        return self.before.stages - self.roles[self.pod].stages

    def spares_the_pod(self, stages: Iterable[Stage]) -> bool:
        """Whether the pod alone has a stage, so that others may take all of these off it."""
        return any(self.offering(stage) == [self.pod] for stage in Stage) and all(
            len(self.offering(stage)) > 1 for stage in stages
        )

    def broken(self, started: Started) -> list[str]:
        """Return what must not have been started: its pod is not offered it, and another is."""
        return [
            f"{pod} ({self.roles[pod]}) started {count} x {stage}, which {others} is offered"
            for (pod, stage), count in started.items()
            if count and (others := self.offering(stage)) and pod not in others
        ]

    def unproven_gains(self, started: Started) -> list[Stage]:
        """Return what the pod must have started for its gains to be proven."""
        return [stage for stage in self.gained if not started[self.pod, stage]]

    def unproven_losses(self, started: Started) -> list[str]:
        """Return what others must have started for the pod's losses to be proven."""
        missing = []
        for stage in self.lost:
            others = [pod for pod in self.offering(stage) if pod != self.pod]
            count = sum(started[pod, stage] for pod in others)
            if others and count < OTHERS_START:
                missing.append(f"{others} have started {count} x {stage}, which {self.pod} lost")
        return missing


def started_since(first: Mapping[str, Load], now: Mapping[str, Load]) -> Started:
    """Return how much work of each stage each pod has started between two looks."""
    return {
        (pod, stage): of_stage(now[pod], stage).started_total
        - of_stage(first[pod], stage).started_total
        for pod in now
        for stage in Stage
    }


def random_roles(
    rng: random.Random, roles: Mapping[str, Role], *, covered: bool
) -> tuple[str, Role]:
    """Draw a pod and another role for it; `covered`: every stage keeps a pod."""
    while True:
        pod, role = rng.choice(list(roles)), rng.choice(list(Role))
        after = {**roles, pod: role}
        offered = frozenset().union(*(role.stages for role in after.values()))
        if role is not roles[pod] and not (covered and len(offered) < len(Stage)):
            return pod, role


class Flood:
    """Streams that never cease, each compared with what was said in peace.

    Attributes:
        compared: Answers that were as they must be.
        wrong: What was not, one line each.
    """

    def __init__(self, target: Target, asks: Sequence[Ask]) -> None:
        self.compared = 0
        self.wrong: list[str] = []
        self._target = target
        self._asks = asks
        self._references: list[Said] = []
        self._client = client_of(target.gateway_url)
        self._open: set[ChatStream] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._enough = False

    async def learn(self) -> None:
        """Ask everything once, in peace."""
        streams = [ChatStream(ask) for ask in self._asks]
        for first in range(0, len(streams), AT_ONCE_IN_PEACE):
            batch = streams[first : first + AT_ONCE_IN_PEACE]
            await asyncio.gather(*(s.run(self._client, self._target.model) for s in batch))
        errors = [stream.error for stream in streams if stream.error]
        _require(not errors, f"errors in peace: {errors}")
        self._references = [stream.said for stream in streams if stream.said is not None]

    async def start(self, rng: random.Random) -> None:
        """Begin all streams; return once all have been answered something."""
        self._tasks = [
            asyncio.create_task(self._repeat(random.Random(rng.random()))) for _ in range(STREAMS)
        ]
        await asyncio.sleep(0)
        await self.until_settled()

    @property
    def running(self) -> int:
        """Streams that run now."""
        return len(self._open)

    async def until_settled(self) -> None:
        """Wait until every stream that runs now has been placed in all its stages."""
        await asyncio.gather(*(stream.until_pieces(2) for stream in list(self._open)))

    async def probe(self, count: int) -> None:
        """Send chats that nobody has had before, all at once."""
        pictures = [0, 2] * (count // 2)
        streams = [ChatStream(ask_about(next(numbers), n, max_tokens=2)) for n in pictures]
        await asyncio.gather(*(s.run(self._client, self._target.model) for s in streams))
        self.wrong += [f"a probe: {stream.error}" for stream in streams if stream.error]

    async def end(self) -> None:
        """Let the streams that run come to their end."""
        self._enough = True
        await asyncio.gather(*self._tasks)

    async def cut_off(self) -> None:
        """End now what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _repeat(self, rng: random.Random) -> None:
        while not self._enough:
            index = rng.randrange(len(self._asks))
            stream = ChatStream(self._asks[index])
            self._open.add(stream)
            try:
                await stream.run(self._client, self._target.model)
            finally:
                self._open.remove(stream)
            if stream.said == self._references[index]:
                self.compared += 1
            else:
                self.wrong.append(f"chat {index}: {stream.error or stream.said}")


@dataclass
class Summary:
    """What a storm was; `wrong` is empty if nothing but the roles changed."""

    flips: int = 0
    uncovered: int = 0
    compared: int = 0
    probes: int = 0
    spared: int = 0
    least_streams: int = STREAMS


class FlipStorm:
    """Flips, one after the other, each proven before the next."""

    def __init__(self, target: Target, asks: Sequence[Ask], roles: Mapping[str, Role]) -> None:
        """Plan a storm over pods that have `roles` now; `asks` is what the streams say."""
        self._target = target
        self._roles = dict(roles)
        self._flood = Flood(target, asks)
        self.summary = Summary()

    async def run(self, seed: int, flips: int, *, covered: bool) -> Summary:
        """Flip so often. AssertionError says what went wrong, and the seed.

        `covered`: every stage always has a pod that is offered it; else it may overflow.
        """
        rng = random.Random(seed)
        await self._flood.learn()
        await self._flood.start(rng)
        flip = None
        try:
            for number in range(flips):
                pod, role = random_roles(rng, self._roles, covered=covered)
                before, self._roles[pod] = self._roles[pod], role
                flip = Flip(number, pod, before, dict(self._roles))
                await self._enact(flip)
            spared = self.summary.spared
            _require(spared <= SPARED_SHARE * flips, f"{spared} gains of {flips} are unproven")
            await self._flood.end()
            _require(not self._flood.wrong, "streams went wrong")
        except AssertionError as failure:
            wrong = "; ".join([str(failure), *self._flood.wrong[:5]])
            raise AssertionError(f"seed {seed}, {flip}: {wrong}") from None
        finally:
            await self._flood.cut_off()
        self.summary.compared = self._flood.compared
        return self.summary

    async def _enact(self, flip: Flip) -> None:
        """Flip, and prove it."""
        summary, flood = self.summary, self._flood
        summary.least_streams = min(summary.least_streams, flood.running)
        _require(flood.running >= LEAST_STREAMS, f"only {flood.running} streams run")
        await self._target.flip(flip.pod, flip.roles[flip.pod])
        await flood.until_settled()
        first = await self._target.counters.loads()
        gains: list[Stage] = []
        losses: list[str] = []
        for count in PROBE_BURSTS:
            await flood.probe(count)
            summary.probes += count
            started = started_since(first, await self._target.counters.loads())
            _require(not flood.wrong, "streams went wrong")
            _require(not (broken := flip.broken(started)), f"broken: {broken}")
            gains, losses = flip.unproven_gains(started), flip.unproven_losses(started)
            if not gains and not losses:
                break
        if gains and flip.spares_the_pod(gains):
            summary.spared += 1
            gains = []
        missing = [f"{flip.pod} has started no {stage}, which it gained" for stage in gains]
        _require(not (missing + losses), f"unproven: {missing + losses}")
        summary.flips += 1
        summary.uncovered += not all(map(flip.offering, Stage))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
