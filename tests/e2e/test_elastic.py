"""The fleet follows the traffic by itself: `epd up` with an active control loop, simulated pods."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from chat_streams import ChatStream, ask_about, client_of, numbers
from running_cluster import Cluster, manifest

from epd.vocabulary import Role
from epd_operator.local_roster import RosterFile

CURVES = {
    # A prompt and an image keep a pod busy for 100 ms, whatever their size: ten of them a second
    # fill one pod, and the machine has little to do.
    "encode": {"batch_ms": 0.0, "image_ms": [[1, 100.0]], "max_batch_images": 1},
    "prefill_ms": [[0, 100.0], [4096, 100.1]],
    "decode_step": {"batch_ms": [[1, 10.0], [32, 11.0]], "ms_per_1000_tokens": 0.0},
    "capacity": {"max_batch_tokens": 64},
}
CONTROL = {"mode": "Active", "intervalSeconds": 1, "cooldownSeconds": 2}
SLO = {"ttftMilliseconds": 2000, "tpotMilliseconds": 50}
SEED = random.SystemRandom().randrange(2**32)


@pytest.fixture
def elastic(tmp_path: Path) -> Iterator[Cluster]:
    curves = tmp_path / "curves.yaml"
    curves.write_text(yaml.safe_dump(CURVES))
    spec = {
        "engine": {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}},
        "replicas": 5,
        "control": CONTROL,
        "slo": SLO,
    }
    cluster = Cluster(manifest("elastic", Path("simulated"), **spec), tmp_path)
    cluster.start()
    yield cluster
    cluster.stop()


def counts(cluster: Cluster) -> Counter[Role]:
    return Counter(pod.role for pod in RosterFile(cluster.state.roster_file).read().workers)


class Traffic:
    """Chats at a steady rate, each with so many pictures, until told otherwise."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.sent = 0
        self.errors: list[str] = []
        self._cluster = cluster
        self._client = client_of(cluster.running.gateway_url)
        self._rng = random.Random(seed)
        self._open: set[asyncio.Task[None]] = set()

    async def flow(self, rate: float, pictures: int, until: Callable[[], bool]) -> None:
        """Send chats at Poisson times until something holds."""
        while not until():
            await asyncio.sleep(self._rng.expovariate(rate))
            task = asyncio.create_task(self._chat(pictures))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def end(self) -> None:
        """Wait for every answer."""
        await asyncio.gather(*self._open)
        await self._client.close()

    async def _chat(self, pictures: int) -> None:
        self.sent += 1
        stream = ChatStream(ask_about(next(numbers), pictures, max_tokens=8))
        await stream.run(self._client, self._cluster.running.model)
        if stream.error:
            self.errors.append(stream.error)


@pytest.mark.timeout(180)
async def test_pods_follow_the_traffic_and_no_answer_is_lost(elastic: Cluster) -> None:
    """Text that wants three pods of prefill, then pictures that want encode; same processes."""
    print(f"seed {SEED}")
    processes = [pod.process_id for pod in elastic.running.pods]
    assert counts(elastic) == {Role.ENCODE: 1, Role.PREFILL: 2, Role.DECODE: 2}
    traffic = Traffic(elastic, SEED)
    try:
        await traffic.flow(24, 0, lambda: counts(elastic)[Role.PREFILL] >= 3)
        assert counts(elastic)[Role.DECODE] == 1
        await traffic.flow(7, 3, lambda: counts(elastic)[Role.ENCODE] >= 2)
    finally:
        await traffic.end()
    assert not traffic.errors, f"seed {SEED}: {len(traffic.errors)} of {traffic.sent} failed"
    assert [pod.process_id for pod in elastic.running.pods] == processes
    said = (elastic.state.path / "control.json").read_text()
    assert "Demand" in said
