"""`epd fault lossy-handoff` on a pod with a real engine: the chat goes on, its answer is right."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from running_cluster import Cluster

from epd.vocabulary import Role
from epd_worker.engine.tiny_models import TinyKind

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@contextmanager
def every_handoff_is_lost(cluster: Cluster, pod: str) -> Iterator[None]:
    command = [sys.executable, "-m", "epd_cli", "fault", "lossy-handoff", pod, "--share", "1"]
    command += ["--for", "120", "--state-dir", str(cluster.state.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "loses 100% of what it takes" in process.stdout.readline()
            yield
        finally:
            process.terminate()


def ask(cluster: Cluster) -> tuple[str, list[dict[str, Any]]]:
    """Return a streamed answer, and the timeline of its stages."""
    with cluster.client() as client:
        stream = client.chat.completions.create(
            model=cluster.running.model,
            messages=[{"role": "user", "content": "Tell me of handoffs."}],
            max_tokens=12,
            temperature=0,
            stream=True,
        )
        chunks = list(stream)
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return said, cluster.timeline(chunks[0].id)


def test_a_pod_that_loses_every_kv_cache_costs_a_detour_and_no_token(
    vllm_cluster: Callable[[TinyKind], Cluster],
) -> None:
    cluster = vllm_cluster(TinyKind.QWEN3_VL)
    for pod, role in zip(cluster.pods, (Role.ENCODE, Role.PREFILL, Role.DECODE), strict=True):
        cluster.flip(pod, role)
    right, calm = ask(cluster)
    assert not [stage for stage in calm if stage["failure"]]
    taker = cluster.pods[2]
    with every_handoff_is_lost(cluster, taker):
        said, stages = ask(cluster)
    (lost,) = (stage for stage in stages if stage["failure"])
    assert (lost["pod"], lost["stage"], lost["failure"]) == (taker, "decode", "handoff_lost")
    assert said == right
    said, stages = ask(cluster)
    assert not [stage for stage in stages if stage["failure"]]
    assert said == right
