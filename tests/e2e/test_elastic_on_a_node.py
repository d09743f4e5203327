"""The control loop on a real node: the operator's pod reads the pods' metrics and relabels them."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from chat_streams import ChatStream, ask_about, numbers
from demo_cluster import DemoCluster
from demo_reach import OwnNode
from kube.binaries import UnavailableError
from kube.node import Node

from epd.vocabulary import Role

EXAMPLE = Path(__file__).parents[2] / "examples" / "elastic.yaml"
SEED = random.SystemRandom().randrange(2**32)


class Flow:
    """Chats at a steady rate, until something holds."""

    def __init__(self, cluster: DemoCluster) -> None:
        self.errors: list[str] = []
        self._client = openai.AsyncOpenAI(
            base_url=cluster.base_url, api_key=cluster.key, max_retries=0
        )
        self._rng = random.Random(SEED)
        self._open: set[asyncio.Task[None]] = set()

    async def until(self, holds: Callable[[], bool], rate: float, words: int) -> None:
        while not await asyncio.to_thread(holds):
            for _ in range(20):
                await asyncio.sleep(self._rng.expovariate(rate))
                task = asyncio.create_task(self._chat(words))
                self._open.add(task)
                task.add_done_callback(self._open.discard)

    async def end(self) -> None:
        await asyncio.gather(*self._open)
        await self._client.close()

    async def _chat(self, words: int) -> None:
        ask = ask_about(next(numbers), max_tokens=4)
        long = type(ask)(ask.prompt + " why" * words, max_tokens=4)
        stream = await ChatStream(long).run(self._client, "simulated")
        if stream.error:
            self.errors.append(stream.error)


@pytest.fixture
def empty_node() -> Iterator[Node]:
    """Return a node of its own, for Helm brings the definitions itself."""
    try:
        node = Node()
    except UnavailableError as error:
        pytest.skip(str(error))
    with node:
        yield node


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status["conditions"]}


@pytest.mark.timeout(300)
async def test_pods_of_a_real_node_follow_the_traffic(empty_node: Node) -> None:
    """Long prompts, 45 ms of a pod each: prefill gets pods, and the status says why."""
    print(f"seed {SEED}")
    cluster = DemoCluster(OwnNode(empty_node), yaml.safe_load(EXAMPLE.read_text()))
    cluster.install()
    await cluster.apply()
    assert Counter(cluster.roles().values())[Role.PREFILL] == 2
    before = cluster.containers()
    flow = Flow(cluster)
    try:
        await flow.until(
            lambda: Counter(cluster.roles().values())[Role.PREFILL] >= 3, rate=40, words=2000
        )
        status = cluster.status()
        found = conditions(status)
        assert found["MetricsAvailable"] == "True"
        assert "Unknown" not in (found["Balanced"], found["SLOMet"])
        assert "Demand prefill" in status["lastDecision"]["message"]
    finally:
        await flow.end()
    assert not flow.errors, f"seed {SEED}: {flow.errors[:3]}"
    assert cluster.containers() == before
    events = empty_node.api.kubectl("get", "events", "-n", "demo", "-o", "jsonpath={..reason}")
    assert "Flipped" in events.split()
