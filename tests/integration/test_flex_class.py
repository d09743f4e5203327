"""Offline requests beside online ones: a gateway and simulated workers as processes.

Told by the order of first tokens, never by the clock: a prompt takes its pod a while, and prompts
are computed one after the other.
"""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from simulated_cluster import MODEL, SimulatedCluster, simulated_cluster, until

from epd.vocabulary import Role

CURVES = """
prefill_ms: [[0, 600.0], [4096, 600.0]]
decode_step: {batch_ms: [[1, 5.0], [64, 6.0]], ms_per_1000_tokens: 0.0}
capacity: {max_images: 0, max_batch_tokens: 64}
"""
FLEX: dict[str, Any] = {"service_tier": "flex"}


class Clients:
    """Sends requests and notes in which order their first tokens come."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.first_tokens: list[str] = []
        self._client = client

    def send(self, name: str, **fields: Any) -> "asyncio.Task[None]":
        return asyncio.create_task(self._ask(name, fields))

    async def _ask(self, name: str, fields: dict[str, Any]) -> None:
        message: Any = {"role": "user", "content": f"{name} " * 30}
        stream = await self._client.chat.completions.create(
            model=MODEL, messages=[message], max_tokens=8, stream=True, **fields
        )
        chunks = 0
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                if not chunks:
                    self.first_tokens.append(name)
                chunks += 1
        assert chunks, name


@pytest.mark.timeout(240)
async def test_flex_requests_fill_idle_time_and_step_aside_for_online_ones(tmp_path: Path) -> None:
    with simulated_cluster(tmp_path) as cluster:
        await cluster.start(curves=CURVES, p=Role.ENCODE_PREFILL, d=Role.DECODE)
        async with cluster.client() as client:
            await served(cluster, Clients(client))


async def served(cluster: SimulatedCluster, clients: Clients) -> None:
    # They come first, and are more. Once online prompts wait, none of them begins.
    flex = [clients.send(f"flex-{n}", **FLEX) for n in range(5)]
    await cluster.has_worked("p", "prefill")
    online = [clients.send(f"online-{n}") for n in range(4)]
    await asyncio.gather(*online)
    at = [clients.first_tokens.index(f"online-{n}") for n in range(4)]
    between = clients.first_tokens[min(at) : max(at)]
    assert sum(name.startswith("flex") for name in between) <= 1, clients.first_tokens
    assert max(at) < 8, clients.first_tokens

    # Nobody is online any more: the idle fleet is theirs, and none is lost.
    await asyncio.gather(*flex)
    assert len(clients.first_tokens) == 9

    # One that comes while they stand in line goes before those that have not begun.
    clients.first_tokens.clear()
    flex = [clients.send(f"flex-{n}", **FLEX) for n in range(8)]
    await until(lambda: bool(clients.first_tokens))
    begun = len(clients.first_tokens)
    await clients.send("online")
    await asyncio.gather(*flex)
    assert clients.first_tokens.index("online") <= begun + 3, clients.first_tokens
    await cluster.drained()
