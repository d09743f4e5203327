"""Clients that ask all the time, and compare every answer with the first of its kind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

CLIENTS = 4


class SteadyTraffic:
    """Requests that run until told to stop.

    Attributes:
        answered: Streams that ended as they should, by the phase in which they began.
        client: Who asks.
        faults: What went wrong: one line for each failed or altered stream.
        phase: What the test is at; stands in the lines of `faults`.
    """

    def __init__(
        self, client: httpx.AsyncClient, bodies: list[dict[str, Any]], pause_s: float = 0
    ) -> None:
        self.client = client
        self._pause_s = pause_s
        self._bodies = bodies
        self._expected: dict[int, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        self.answered: Counter[str] = Counter()
        self.faults: list[str] = []
        self.phase = "begin"

    async def start(self, clients: int = CLIENTS) -> None:
        """Ask each question once, for these answers are right; then begin to ask all the time."""
        for number, body in enumerate(self._bodies):
            self._expected[number] = await self._ask(body)
        numbers = (client % len(self._bodies) for client in range(clients))
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in numbers]

    async def more(self, answers: int) -> None:
        """Return once so many further streams have ended."""
        goal = self._ended() + answers
        while self._ended() < goal:  # noqa: ASYNC110 - two things may change it
            await asyncio.sleep(0.05)

    def _ended(self) -> int:
        return self.answered.total() + len(self.faults)

    async def end(self) -> None:
        """Begin no more streams; return once all that run have ended."""
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Break off whatever runs."""
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks)

    async def _ask_on(self, number: int) -> None:
        """Ask one question again and again."""
        while not self._ending:
            phase = self.phase
            try:
                said = await self._ask(self._bodies[number])
            except (httpx.HTTPError, AssertionError) as error:
                self.faults.append(f"{phase}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.1)  # what fails at once would leave nobody else a turn
                continue
            if said == self._expected[number]:
                self.answered[phase] += 1
            else:
                self.faults.append(f"{phase}: altered: {said!r}, not {self._expected[number]!r}")
            await asyncio.sleep(self._pause_s)

    async def _ask(self, body: dict[str, Any]) -> str:
        events: list[str] = []
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, (await answer.aread()).decode()
            events = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
        assert events[-1] == "data: [DONE]", events[-1:]
        parts = [httpx.Response(200, content=event[6:]).json() for event in events[:-1]]
        assert not any("error" in part for part in parts), parts[-1]
        choices = [choice for part in parts for choice in part.get("choices") or ()]
        said = "".join(choice["delta"].get("content") or "" for choice in choices)
        return f"{said} ({choices[-1]['finish_reason']})"


@asynccontextmanager
async def steady_traffic(
    client: httpx.AsyncClient,
    bodies: list[dict[str, Any]],
    clients: int = CLIENTS,
    pause_s: float = 0,
) -> AsyncIterator[SteadyTraffic]:
    """Ask for the time of the block; each client waits for `pause_s` between two streams."""
    traffic = SteadyTraffic(client, bodies, pause_s)
    await traffic.start(clients)
    try:
        yield traffic
    finally:
        await traffic.stop()
