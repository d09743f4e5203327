"""What the gateway counts: objectives, both TPOTs, exemplars; and that no client adds a series."""

import asyncio
import json
import re

import pytest
from fake_cluster import until

from epd.vocabulary import Role
from epd_gateway.metrics import p90_gap_s

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
STRANGERS = 10_000
BATCH = 16  # as many as a client may send ahead of its answers


def series_of(text):
    """Return the names and labels of all series."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def exposition(cluster, accept="text/plain"):
    return (await cluster.client.get("/metrics", headers={"accept": accept})).text


@pytest.mark.parametrize(
    ("times_s", "gap_s"),
    [([], None), ([1.0], None), ([1.0, 3.0], 2.0), ([0.0, *range(1, 10), 19.0], 1.0),
     ([0.0, 5.0, *range(6, 14), 23.0], 5.0)],
)  # fmt: skip
def test_nine_gaps_of_ten_are_no_longer_than_the_p90(times_s, gap_s):
    assert p90_gap_s(times_s) == gap_s


def strange_request(number):
    """Return a request as nobody sent one before: its own path, or its own model, user and key."""
    name = f"stranger-{number}"
    head = f"host: x\r\nx-request-id: {name}\r\nauthorization: Bearer {name}\r\n"
    if number % 2:
        return f"GET /{name} HTTP/1.1\r\n{head}\r\n"
    body = json.dumps({"model": name, "user": name, "messages": []})
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n{body}"


async def answers_to(port, requests):
    """Return how many of these requests are refused, sent in batches on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    for first in range(0, len(requests), BATCH):
        batch = requests[first : first + BATCH]
        writer.write("".join(batch).encode())
        received = b""
        while received.count(b"HTTP/1.1 4") < len(batch) or not received.endswith(b"}"):
            chunk = await reader.read(1 << 16)
            assert chunk, received
            received += chunk
        count += received.count(b"HTTP/1.1 4")
    writer.close()
    await writer.wait_closed()
    return count


async def test_ten_thousand_models_paths_and_users_add_no_series(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    await cluster.stream()
    await cluster.client.get("/metrics")
    before = series_of(await exposition(cluster))
    requests = [strange_request(number) for number in range(STRANGERS)]
    assert await answers_to(cluster.gateway.public.port, requests) == STRANGERS
    assert series_of(await exposition(cluster)) == before


@pytest.mark.parametrize(
    ("slo", "met"),
    [({"ttft_ms": 60_000, "tpot_ms": 60_000}, {"ttft": 1, "tpot": 1, "all": 1}),
     ({"ttft_ms": 60_000, "tpot_ms": 1e-6}, {"ttft": 1, "tpot": 0, "all": 0}),
     ({"ttft_ms": 1e-6, "tpot_ms": 60_000}, {"ttft": 0, "tpot": 1, "all": 0})],
)  # fmt: skip
async def test_an_answer_is_counted_against_the_objective(make_cluster, slo, met):
    cluster = await make_cluster(settings={"slo": slo}, p=P, d=D)
    await cluster.stream()
    labels = {"images": "0", "verdict": "met"}
    await until(lambda: cluster.metric("epd_requests_in_flight", api="chat_completions") == 0)
    found = {
        objective: cluster.metric("epd_slo_answers_total", objective=objective, **labels)
        for objective in met
    }
    assert found == met
    limit_s = cluster.metric("epd_slo_limit_seconds", objective="ttft")
    assert limit_s == slo["ttft_ms"] / 1e3


async def test_an_answer_that_fails_misses_the_objective(make_cluster):
    cluster = await make_cluster()
    cluster.gateway.roster.models = frozenset({"fake"})
    response = await cluster.chat()
    assert response.status_code == 503
    labels = {"objective": "all", "images": "0", "verdict": "missed"}
    assert cluster.metric("epd_slo_answers_total", **labels) == 1


async def test_both_tpots_of_a_stream_are_measured(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    await cluster.stream()
    await until(lambda: cluster.metric("epd_requests_in_flight", api="chat_completions") == 0)
    api = {"api": "chat_completions"}
    assert cluster.metric("epd_time_per_output_token_p90_seconds_count", **api) == 1
    assert cluster.metric("epd_time_per_output_token_seconds_count", method="EP-D", **api) == 1


async def test_who_understands_exemplars_finds_the_trace_of_a_request(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    await cluster.stream()
    text = await exposition(cluster, accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    traces = re.findall(r'epd_time_to_first_token_seconds_bucket.*# {trace_id="(\w+)"}', text)
    assert len(traces) == 1
    assert "# {" not in await exposition(cluster)


async def test_stages_without_a_pod_are_told(make_cluster):
    cluster = await make_cluster(p=P)
    missing = {
        stage: cluster.metric("epd_roster_stage_missing", stage=stage)
        for stage in ("encode", "prefill", "decode")
    }
    assert missing == {"encode": 1, "prefill": 0, "decode": 1}
    assert cluster.metric("epd_roster_stage_pods", stage="prefill") == 1
