"""The worker's Prometheus metrics, scraped from a real worker process."""

import asyncio
import json

import httpx
from prometheus_client.parser import text_string_to_metric_families
from worker_process import GatewaySession, client_of, description_where_ready, worker_process

from epd import telemetry
from epd.vocabulary import Component
from epd.wire.messages import Api, Generate, Phase, Submit
from epd_operator import local_ports

LABELS = ("stage", "worker")
CHAT = {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 16}


def scrape(port: int) -> dict[str, dict[tuple[str | None, ...], float]]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {
        family.name: {tuple(map(s.labels.get, LABELS)): s.value for s in family.samples}
        for family in text_string_to_metric_families(text)
    }


async def test_a_worker_exports_every_metric_of_a_worker_and_no_other() -> None:
    port = local_ports.free_block(1, "127.0.0.1")
    arguments = ("--name", "w", "--metrics-listen", f"127.0.0.1:{port}", "--", "time_scale=0.01")
    async with worker_process(*arguments) as worker, client_of(worker.address) as client:
        await description_where_ready(client)
        session = GatewaySession(client)
        body = json.dumps(CHAT).encode()
        work = Generate(Phase.WHOLE, Api.CHAT_COMPLETIONS, body)
        await session.send(Submit(1, "r", work))
        await session.outcome(1)
        found = await asyncio.to_thread(scrape, port)
    declared = {
        metric.name.removesuffix("_total")
        for metric in telemetry.METRICS
        if metric.component is Component.WORKER
    }
    assert found.keys() == declared
    assert found["epd_worker_finished"] == {
        ("encode", "w"): 0,
        ("prefill", "w"): 1,
        ("decode", "w"): 1,
    }
    assert found["epd_worker_service_seconds"]["decode", "w"] > 0
    assert found["epd_worker_finished_tokens"]["decode", "w"] == 16
    assert found["epd_worker_finished_tokens"]["prefill", "w"] > 0
    local_ports.release(port, 1)
