"""The gateway and simulated workers as processes, spoken to through the official client."""

import asyncio
import base64
import io
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from PIL import Image
from simulated_cluster import MODEL, SimulatedCluster, simulated_cluster, stream_text, until

from epd.vocabulary import Method, Role

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
EPD = Role.ENCODE_PREFILL_DECODE

METHODS = {
    Method.EPD: {"a": EPD, "b": EPD, "c": EPD},
    Method.EP_D: {"a": Role.ENCODE_PREFILL, "b": D, "c": D},
    Method.ED_P: {"a": Role.ENCODE_DECODE, "b": P, "c": P},
    Method.E_P_D: {"a": E, "b": P, "c": D},
}
QUICK = (
    "deadlines.encode_s=1",
    "deadlines.prefill_s=2",
    "deadlines.decode_idle_s=2",
    "workers.probe_interval_s=0.2",
    "workers.probe_timeout_s=1",
    "workers.lost_after_s=1",
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SimulatedCluster]:
    with simulated_cluster(tmp_path) as cluster:
        yield cluster


def picture(number: int) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (number % 256, number // 256, 99)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def question(number: int, images: int = 0) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"question {number}"}]
    for index in range(images):
        url = picture(31 * number + index)
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": parts}]


async def answers_of(cluster: SimulatedCluster, tokens: int = 12) -> list[str]:
    """Return the answers to a few questions, streamed and whole, which must agree."""
    async with cluster.client() as client:
        texts = []
        for images in (0, 1, 3):
            messages = question(images, images)
            text = await stream_text(client, messages, tokens)
            whole = await client.chat.completions.create(
                model=MODEL,
                messages=messages,
                max_tokens=tokens,  # type: ignore[arg-type]
            )
            assert whole.choices[0].message.content == text
            assert whole.usage is not None
            assert whole.usage.completion_tokens == tokens
            texts.append(text)
        completion = await client.completions.create(model=MODEL, prompt="hello", max_tokens=tokens)
        return [*texts, completion.choices[0].text]


async def test_all_methods_give_the_same_answers(cluster):
    await cluster.start(**METHODS[Method.EPD])
    expected = await answers_of(cluster)
    assert len(set(expected)) == 4
    for method, roles in METHODS.items():
        for name, role in roles.items():
            await cluster.flip(name, role)
        assert await answers_of(cluster) == expected, method
    await cluster.drained()


async def test_the_timeline_names_the_method(cluster):
    await cluster.start(**METHODS[Method.E_P_D])
    async with cluster.client() as client:
        for method in (Method.E_P_D, Method.EP_D, Method.ED_P):
            for name, role in METHODS[method].items():
                await cluster.flip(name, role)
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=question(1, 1),
                max_tokens=3,  # type: ignore[arg-type]
            )
            record = await cluster.get(f"/requests/{answer.id}")
            assert record["method"] == method
            assert record["stages"][-1]["stage"] == "decode"


def test_the_synchronous_client_is_served(cluster):
    asyncio.run(cluster.start(**METHODS[Method.E_P_D]))
    with openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key="none", max_retries=0,
        http_client=httpx.Client(trust_env=False),
    ) as client:  # fmt: skip
        assert [model.id for model in client.models.list()] == [MODEL]
        stream = client.chat.completions.create(
            model=MODEL, messages=question(1, 1), max_tokens=4, n=2, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = list(stream)
        assert chunks[-1].usage.completion_tokens == 8
        assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


async def test_what_the_worker_refuses_reaches_the_client(cluster):
    await cluster.start(a=EPD)
    async with cluster.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x " * 100_000}]
            )
    assert refused.value.code == "context_length_exceeded"
    await cluster.drained()


# --- flips ----------------------------------------------------------------------------------------


async def test_flips_under_load_lose_nothing(cluster):
    await cluster.start(**METHODS[Method.EPD], d=EPD)
    pids = {worker["description"]["process_id"] for worker in await cluster.known_workers()}
    async with cluster.client() as client:
        expected = [await stream_text(client, question(n, n % 3), 40) for n in range(16)]
        stop = asyncio.Event()

        async def keep_asking(number: int) -> int:
            served = 0
            while not stop.is_set() or not served:
                text = await stream_text(client, question(number, number % 3), 40)
                assert text == expected[number]
                served += 1
            return served

        asking = [asyncio.ensure_future(keep_asking(number)) for number in range(16)]
        roles = random.Random(7)
        for _ in range(40):
            await cluster.flip(roles.choice("abcd"), roles.choice(list(Role)))
            await asyncio.sleep(0.02)
        stop.set()
        assert all(await asyncio.gather(*asking))
    await cluster.drained()
    assert pids == {worker["description"]["process_id"] for worker in await cluster.known_workers()}


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("stage", ["encode", "prefill", "decode"])
async def test_a_pod_that_fails_under_streams_loses_none(cluster, stage, number):
    await cluster.start(*QUICK, e1=E, e2=E, p1=P, p2=P, d1=D, d2=D)
    async with cluster.client() as client:
        expected = [await stream_text(client, question(n, 1), 60) for n in range(12)]
        asking = [asyncio.ensure_future(stream_text(client, question(n, 1), 60)) for n in range(12)]
        victim = f"{stage[0]}1"
        await cluster.has_worked(victim, stage)
        cluster.workers[victim].send(number)
        # More requests come while nobody knows yet.
        asking += [
            asyncio.ensure_future(stream_text(client, question(n, 1), 60)) for n in range(12)
        ]
        assert await asyncio.gather(*asking) == expected * 2
        await cluster.drained(victim)


async def test_a_frozen_pod_is_used_again_once_it_thaws(cluster):
    await cluster.start(*QUICK, "workers.suspect_s=0.1", a=EPD, b=EPD)
    cluster.workers["a"].send(signal.SIGSTOP)

    async def is_left_alone() -> bool:
        return not (await cluster.known_workers())[0]["healthy"]

    await until(is_left_alone)
    async with cluster.client() as client:
        for n in range(4):
            await stream_text(client, question(n), 3)
    cluster.workers["a"].send(signal.SIGCONT)
    await cluster.ready()


async def test_a_worker_told_to_stop_hands_its_streams_over(cluster):
    await cluster.start(a=EPD, b=EPD)
    async with cluster.client() as client:
        expected = [await stream_text(client, question(n), 300) for n in range(6)]
        asking = [asyncio.ensure_future(stream_text(client, question(n), 300)) for n in range(6)]
        await cluster.has_worked("a", "decode")
        cluster.workers["a"].send(signal.SIGTERM)
        assert await asyncio.gather(*asking) == expected
    assert await cluster.workers["a"].ended() == 0


async def test_injected_failures_are_survived(cluster):
    curves = "failures: {encode_every: 5, prefill_every: 7, decode_every: 7, handoff_every: 9}"
    patient = ("retries.max_stage_retries=4", "retries.max_replays=8")
    await cluster.start(*patient, curves=curves, e1=E, e2=E, p1=P, p2=P, d1=D, d2=D)
    async with cluster.client() as client:
        texts = [await stream_text(client, question(n % 4, 2), 20) for n in range(40)]
    assert texts == texts[:4] * 10
    await cluster.drained()


# --- the gateway's own end ------------------------------------------------------------------------


async def test_a_gateway_told_to_stop_finishes_its_streams(cluster):
    await cluster.start(a=EPD)
    async with cluster.client() as client:
        expected = await stream_text(client, question(1), 100)
        asking = asyncio.ensure_future(stream_text(client, question(1), 100))
        await cluster.has_worked("a", "decode")
        cluster.gateway.send(signal.SIGTERM)
        assert await asking == expected
    assert await cluster.gateway.ended() == 0


async def test_a_gateway_killed_leaves_nothing_on_the_workers(cluster):
    await cluster.start(**METHODS[Method.E_P_D])
    async with cluster.client() as client:
        asking = [
            asyncio.ensure_future(stream_text(client, question(n, 2), 2000)) for n in range(8)
        ]
        await cluster.has_worked("c", "decode")
        cluster.gateway.kill()
        failures = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(failure, Exception) for failure in failures)
    await cluster.start_gateway()
    await cluster.drained()
    assert len(await answers_of(cluster)) == 4


async def test_clients_that_leave_free_the_workers(cluster):
    await cluster.start(**METHODS[Method.E_P_D])
    async with cluster.client() as client:
        asking = [
            asyncio.ensure_future(stream_text(client, question(n, 2), 2000)) for n in range(12)
        ]
        await cluster.has_worked("c", "decode")
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    await cluster.drained()


async def test_several_processes_share_the_port(cluster):
    await cluster.start(*QUICK, processes=2, **METHODS[Method.E_P_D])
    await until(lambda: cluster.gateway.log.read_text().count(": ready") == 2 * 3)
    expected = None
    for _ in range(6):  # new connections each time, for whichever process takes them
        answers = await answers_of(cluster)
        expected = expected or answers
        assert answers == expected
    assert cluster.gateway.log.read_text().count("listening on") == 2
    cluster.gateway.send(signal.SIGTERM)
    assert await cluster.gateway.ended() == 0


async def test_all_processes_stop_when_one_ends(cluster):
    await cluster.start(processes=2, a=EPD)
    (child, *_) = psutil.Process(cluster.gateway.pid).children()
    child.kill()
    assert await cluster.gateway.ended() != 0


async def test_workers_that_ask_for_certificates_are_shown_one(cluster):
    files = Path(__file__).parents[1] / "support" / "certificates"
    tls = ("--tls-cert", "worker.pem", "--tls-key", "worker.key", "--tls-ca", "ca.pem")
    options = [str(files / part) if "." in part else part for part in tls]
    for name, role in METHODS[Method.E_P_D].items():
        cluster.start_worker(name, "", *options)
        await cluster.join(name, role)
    shown = [("tls_certificate", "gateway.pem"), ("tls_key", "gateway.key"), ("tls_ca", "ca.pem")]
    settings = [f"workers.{name}={files / file}" for name, file in shown]
    await cluster.start_gateway(*settings)
    assert len(await answers_of(cluster)) == 4


# --- the roster -----------------------------------------------------------------------------------


async def test_a_broken_roster_file_changes_nothing(cluster):
    await cluster.start(a=EPD)
    cluster.roster_file.write_text("{")
    async with cluster.client() as client:
        assert await stream_text(client, question(1), 3)
    await until(lambda: "the last good roster stays" in cluster.gateway.log.read_text())
    assert (await cluster.get("/ready"))["ready"]
    await cluster.applied(cluster.write_roster())


async def test_a_worker_that_joins_is_used(cluster):
    await cluster.start(a=EPD)
    cluster.start_worker("b")
    await cluster.join("b", EPD)
    await cluster.ready()
    async with cluster.client() as client:
        for n in range(4):
            await stream_text(client, question(n), 3)
    await cluster.has_worked("b", "decode")


# --- mistakes at the command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "256.0.0.1:1"], "cannot listen on 256.0.0.1:1"),
        (["--api-key-file", "/nowhere"], "API keys /nowhere"),
        (["--set", "workers.tls_ca=/nowhere"], "TLS: /nowhere"),
    ],
)
async def test_a_mistake_is_one_line(tmp_path, arguments, says):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "epd_gateway", "--roster-file", str(tmp_path / "r.json"), *arguments,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await process.communicate()
    lines = [line for line in stderr.decode().splitlines() if line.startswith("epd-gateway")]
    assert process.returncode == 2
    assert says in lines[-1]
    assert "Traceback" not in stderr.decode()
