"""A prompt that its role would answer too late goes elsewhere, unless told not to."""

import asyncio

import pytest
from fake_cluster import until

from epd.vocabulary import Role

ASKED = 5
WITHIN_100_MS = 3  # prompts that a pod is thought to prefill in that time, 30 ms each


@pytest.mark.parametrize(
    ("slo", "expected"),
    [
        ({"ttft_ms": 100}, WITHIN_100_MS),
        ({"ttft_ms": 100, "overflow": False}, ASKED),
        ({}, ASKED),
    ],
    ids=["by default", "switched off", "within the objective"],
)
async def test_prompts_overflow_once_their_pod_is_predicted_to_be_late(make_cluster, slo, expected):
    cluster = await make_cluster({"slo": slo}, e=Role.ENCODE, p=Role.PREFILL, d=Role.DECODE)
    prefills, idle = cluster.workers["p"], cluster.workers["e"]
    for worker in (prefills, idle):
        worker.gate.clear()
    streaming = []
    for _ in range(ASKED):
        streaming.append(asyncio.ensure_future(cluster.stream()))
        await until(lambda: len(prefills.submits) + len(idle.submits) == len(streaming))
    counted = len(prefills.submits), cluster.metric("epd_overflows_total", stage="prefill")
    assert counted == (expected, ASKED - expected)
    for worker in (prefills, idle):
        worker.gate.set()
    assert all(seen.done for seen in await asyncio.gather(*streaming))
