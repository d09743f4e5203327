"""Clients that ask all the time, and compare every answer with the first of its kind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

CLIENTS = 4


class SteadyTraffic:
    """Requests that run until told to stop.

    Attributes:
        answered: Streams that ended as they should.
        faults: What went wrong: one line for each failed or altered stream.
        phase: What the test is at; stands in the lines of `faults`.
    """

    def __init__(self, client: httpx.AsyncClient, bodies: list[dict[str, Any]]) -> None:
        self._client = client
        self._bodies = bodies
        self._expected: dict[int, str] = {}
        self.answered = 0
        self.faults: list[str] = []
        self.phase = "begin"

    async def learn(self) -> None:
        """Ask each question once: these answers are right."""
        for number, body in enumerate(self._bodies):
            self._expected[number] = await self._ask(body)

    async def more(self, answers: int) -> None:
        """Return once so many further streams have ended."""
        goal = self.answered + len(self.faults) + answers
        while self.answered + len(self.faults) < goal:  # noqa: ASYNC110 - two things may change it
            await asyncio.sleep(0.05)

    async def ask_on(self, number: int) -> None:
        """Ask one question again and again."""
        while True:
            phase = self.phase
            try:
                said = await self._ask(self._bodies[number])
            except (httpx.HTTPError, AssertionError) as error:
                self.faults.append(f"{phase}: {type(error).__name__}: {error}")
                continue
            if said == self._expected[number]:
                self.answered += 1
            else:
                self.faults.append(f"{phase}: altered: {said!r}, not {self._expected[number]!r}")

    async def _ask(self, body: dict[str, Any]) -> str:
        events: list[str] = []
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, (await answer.aread()).decode()
            events = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
        assert events[-1] == "data: [DONE]", events[-1:]
        parts = (httpx.Response(200, content=event[6:]).json() for event in events[:-1])
        choices = (choice for part in parts for choice in part.get("choices") or ())
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@asynccontextmanager
async def steady_traffic(
    client: httpx.AsyncClient, bodies: list[dict[str, Any]]
) -> AsyncIterator[SteadyTraffic]:
    """Ask for the time of the block."""
    traffic = SteadyTraffic(client, bodies)
    await traffic.learn()
    tasks = [asyncio.create_task(traffic.ask_on(number % len(bodies))) for number in range(CLIENTS)]
    try:
        yield traffic
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
