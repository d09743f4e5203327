"""One trace of a request across gateway and pods, at a collector as OpenTelemetry has it."""

import base64
import io
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import Received, Receiver, otlp_receiver
from PIL import Image
from simulated_cluster import MODEL, SimulatedCluster, simulated_cluster, stream_text, until

from epd.vocabulary import Role

pytestmark = pytest.mark.timeout(300)
E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
QUICK = (
    "deadlines.decode_idle_s=2",
    "workers.probe_interval_s=0.2",
    "workers.probe_timeout_s=1",
    "workers.lost_after_s=1",
)
SLOW_DECODE = "decode_step: {batch_ms: [[1, 60.0]]}\n"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield receiver


@pytest.fixture
def cluster(collector: Receiver, tmp_path: Path) -> Iterator[SimulatedCluster]:
    with simulated_cluster(tmp_path) as cluster:
        yield cluster


def one(spans: list[Received], name: str) -> Received:
    (found,) = [span for span in spans if span.name == name]
    return found


def traceparent() -> tuple[str, str, str]:
    """Return a client's trace: its id, its span's id, and the header that names both."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


def question(number: int, images: int = 0) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"question {number}"}]
    for index in range(images):
        data = io.BytesIO()
        Image.new("RGB", (64, 64), (number, index, 99)).save(data, "PNG")
        url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": parts}]


async def chat(cluster: SimulatedCluster, header: str = "", images: int = 0, **options: Any) -> str:
    """Send a chat; return its response id."""
    async with cluster.client() as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=question(images, images),  # type: ignore[arg-type]
            extra_headers={"traceparent": header} if header else {},
            **{"max_tokens": 4, **options},
        )
    return str(answer.id)


async def test_one_trace_shows_a_request_across_three_pods_and_both_handoffs(cluster, collector):
    await cluster.start(e=E, p=P, d=D)
    trace_id, client_span, header = traceparent()
    await chat(cluster, header, images=1)
    await until(lambda: len(collector.of(trace_id)) == 9)
    spans = collector.of(trace_id)
    root = one(spans, "chat_completions")
    assert root.parent_id == client_span
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.usage.output_tokens"] == 4
    for stage, pod in (("encode", "e"), ("prefill", "p"), ("decode", "d")):
        asked, served = one(spans, stage), one(spans, f"serve {stage}")
        assert (asked.parent_id, served.parent_id) == (root.span_id, asked.span_id)
        assert (asked.service, served.service) == ("epd-gateway", "epd-worker")
        assert (asked.attributes["epd.pod"], served.instance) == (pod, pod)
        assert asked.start_ns <= served.start_ns <= served.end_ns
    for kind, giver, taker in (("ec", "e", "prefill"), ("kv", "p", "decode")):
        handoff = one(spans, f"{kind} handoff")
        assert handoff.attributes["epd.handoff.from"] == giver
        assert handoff.parent_id == one(spans, f"serve {taker}").span_id
        assert handoff.end_ns > handoff.start_ns
    assert not any(span.failed for span in spans)


async def test_a_replayed_request_shows_the_lost_decode_and_the_one_that_went_on(
    cluster, collector
):
    await cluster.start(*QUICK, curves=SLOW_DECODE, p=P, d1=D, d2=D)
    trace_id, _, header = traceparent()
    async with cluster.client() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=question(1), max_tokens=30, stream=True,  # type: ignore[arg-type]
            extra_headers={"traceparent": header},
        )  # fmt: skip
        chunks = 0
        async for _ in stream:
            chunks += 1
            if chunks == 5:
                at = await decoding_pod(cluster)
                cluster.workers[at].kill()
    await until(lambda: "chat_completions" in collector.names(trace_id))
    await until(lambda: "serve decode" in collector.names(trace_id))
    lost, went_on = [span for span in collector.of(trace_id) if span.name == "decode"]
    assert (lost.failed, lost.attributes["epd.pod"]) == (True, at)
    assert lost.attributes["epd.replay"] is False
    assert (went_on.failed, went_on.attributes["epd.replay"]) == (False, True)
    assert went_on.attributes["epd.pod"] != at
    assert went_on.attributes["epd.attempt"] == 2


async def decoding_pod(cluster: SimulatedCluster) -> str:
    workers = await cluster.known_workers()
    (found,) = [w["name"] for w in workers if w["in_flight"]["decode"]]
    return str(found)


async def test_spans_say_nothing_of_what_a_client_wrote(cluster, collector):
    await cluster.start(e=E, p=P, d=D)
    trace_id, _, header = traceparent()
    secret = f"secret{secrets.token_hex(8)}"
    async with cluster.client() as client:
        messages = [{"role": "user", "content": secret}]
        await client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=2, user=secret,  # type: ignore[arg-type]
            extra_headers={"traceparent": header, "authorization": f"Bearer {secret}"},
        )  # fmt: skip
    await until(lambda: "serve decode" in collector.names(trace_id))
    assert secret.encode() not in collector.raw


async def test_a_collector_that_is_gone_disturbs_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with simulated_cluster(tmp_path) as cluster:
        await cluster.start(e=E, p=P, d=D)
        async with cluster.client() as client:
            for number in range(5):
                assert await stream_text(client, question(number, 1), 4)
        cluster.gateway.send(15)  # type: ignore[arg-type]
        assert await cluster.gateway.ended() == 0
        cluster.workers["d"].send(15)  # type: ignore[arg-type]
        assert await cluster.workers["d"].ended() == 0
        assert question(0)[0]["content"][0]["text"] not in cluster.gateway.log.read_text()
