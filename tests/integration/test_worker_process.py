"""Whole worker processes with simulated engines: stages across them, signals, faults, TLS."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from engine_calls import picture
from worker_process import (
    GatewaySession,
    chat,
    client_of,
    description_where_ready,
    enter,
    load_where,
    prefill,
    start_process,
    worker_process,
)

from epd.wire.messages import (
    Completed,
    EcHandle,
    Encode,
    Failure,
    FailureKind,
    Image,
    Load,
    Submit,
)

FAST = ("--", "time_scale=0.01")


def holds_nothing(load: Load) -> bool:
    stages = (load.encode, load.prefill, load.decode)
    busy = sum(stage.waiting + stage.running for stage in stages)
    return not (busy or load.kv_leases or load.ec_leases or load.kv_used_permille)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


# --- three stages on three processes -----------------------------------------------------------


async def test_three_workers_give_the_bytes_of_one_and_keep_nothing(stack: AsyncExitStack) -> None:
    pods = [await enter(stack, name, *FAST) for name in ("e", "p", "d")]
    encoder, prefiller, decoder = pods
    image = Image(picture("navy", 320, 320), "image/png")
    _, whole, _ = await encoder.run(replace(chat(1), images=(image,)))
    outcome, _, _ = await encoder.run(Encode(image))
    assert isinstance(outcome.result, EcHandle)
    work = replace(chat(1), images=(Image(media_type="image/png", ec=outcome.result),))
    decode, begun = await prefill(prefiller, work)
    ended, rest, _ = await decoder.run(decode)
    assert begun + rest == whole
    assert isinstance(ended.result, Completed)
    assert ended.service_us >= ended.handoff_us > 0
    await encoder.session.send(release_ec=[outcome.result.identifier])
    for pod in pods:
        await load_where(pod.client, holds_nothing)
    loads = [await load_where(pod.client, lambda load: True) for pod in pods]
    stages = [(load.encode, load.prefill, load.decode) for load in loads]
    assert [[stage.finished_total for stage in pod] for pod in stages] == [
        [1, 1, 1],  # the whole was one of each but the encode
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert [load.ec_received_bytes_total > 0 for load in loads] == [False, True, False]
    assert [load.kv_received_bytes_total > 0 for load in loads] == [False, False, True]


async def test_a_step_of_many_streams_is_one_frame(stack: AsyncExitStack) -> None:
    pod = await enter(stack, "a")
    streams = range(1, 31)
    await pod.session.send(
        *(Submit(stream, f"r{stream}", chat(max_tokens=20)) for stream in streams)
    )
    for stream in streams:
        await pod.session.outcome(stream)
    assert sum(sum(frame.token_counts) for frame in pod.session.frames) == 30 * 20
    assert len(pod.session.frames) <= 20


# --- faults ------------------------------------------------------------------------------------


async def test_a_killed_owner_is_a_lost_handoff_and_a_replay_goes_on(
    stack: AsyncExitStack,
) -> None:
    owner, taker = await enter(stack, "a", *FAST), await enter(stack, "b", *FAST)
    _, whole, _ = await taker.run(chat())
    decode, begun = await prefill(owner, chat())
    owner.worker.process.kill()
    await owner.worker.ended()
    assert (await taker.failure(decode)).kind is FailureKind.HANDOFF_LOST
    _, rest, _ = await taker.run(replace(decode, kv=None))
    assert begun + rest == whole
    await load_where(taker.client, holds_nothing)


async def test_an_owner_that_dies_during_the_handoff_is_noticed_at_once(
    stack: AsyncExitStack,
) -> None:
    owner = await enter(stack, "a", "--", "handoff.fixed_ms=1000000", "time_scale=1")
    taker = await enter(stack, "b", *FAST)
    decode, _ = await prefill(owner, chat())
    stream = await taker.begin(decode)
    await load_where(taker.client, lambda load: load.decode.running == 1)
    owner.worker.process.kill()
    failure = (await taker.session.outcome(stream)).result
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.HANDOFF_LOST


async def test_a_frozen_owner_hangs_the_handoff_until_it_is_cancelled(
    stack: AsyncExitStack,
) -> None:
    owner, taker = await enter(stack, "a", *FAST), await enter(stack, "b", *FAST)
    decode, _ = await prefill(owner, chat())
    owner.worker.process.send_signal(signal.SIGSTOP)
    stream = await taker.begin(decode)
    assert (await taker.run(chat()))[1]  # others are served meanwhile
    await taker.session.send(cancels=[stream])
    load = await load_where(taker.client, holds_nothing)
    assert load.decode.cancelled_total == 1
    owner.worker.process.send_signal(signal.SIGCONT)


async def test_a_gateway_that_vanishes_leaves_nothing_behind(stack: AsyncExitStack) -> None:
    pod = await enter(stack, "a")
    async with client_of(pod.worker.address) as client:
        vanishing = GatewaySession(client)
        await vanishing.send(Submit(1, "v1", chat(max_tokens=4000)))
        await vanishing.first_payload(1)
    load = await load_where(pod.client, holds_nothing)
    assert load.decode.cancelled_total == 1


# --- signals and parents -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_worker_with_status_0(number: signal.Signals) -> None:
    async with worker_process() as worker, client_of(worker.address) as client:
        await description_where_ready(client)
        worker.process.send_signal(number)
        assert await worker.ended() == 0
        assert b"Traceback" not in worker.log


async def test_what_is_in_flight_at_a_signal_is_finished_within_the_grace() -> None:
    async with AsyncExitStack() as stack:
        pod = await enter(stack, "a", "--grace-s", "60")
        stream = await pod.begin(chat(max_tokens=200))
        await pod.session.first_payload(stream)
        pod.worker.process.send_signal(signal.SIGTERM)
        assert isinstance((await pod.session.outcome(stream)).result, Completed)
        assert await pod.worker.ended() == 0


async def test_what_others_are_still_to_take_outlives_a_signal(stack: AsyncExitStack) -> None:
    owner = await enter(stack, "a", "--grace-s", "60")
    taker = await enter(stack, "b", *FAST)
    outcome, _, _ = await owner.run(Encode(Image(picture("navy", 320, 320), "image/png")))
    assert isinstance(outcome.result, EcHandle)
    decode, _ = await prefill(owner, chat())
    owner.worker.process.send_signal(signal.SIGTERM)
    await owner.worker.until_said(b"0 in flight and 2 handoffs to be taken")
    assert isinstance((await taker.run(decode))[0].result, Completed)
    await load_where(owner.client, lambda load: not load.kv_leases)
    assert owner.worker.process.returncode is None  # the embedding is still to be taken
    await owner.session.send(release_ec=[outcome.result.identifier])
    assert await owner.worker.ended() == 0


async def test_what_nobody_takes_holds_a_worker_for_its_grace_at_most(
    stack: AsyncExitStack,
) -> None:
    owner = await enter(stack, "a", "--grace-s", "0.2")
    await prefill(owner, chat())
    owner.worker.process.send_signal(signal.SIGTERM)
    assert await owner.worker.ended() == 0


async def test_a_second_signal_ends_what_is_in_flight_as_shutting_down() -> None:
    async with AsyncExitStack() as stack:
        pod = await enter(stack, "a", "--grace-s", "600")
        stream = await pod.begin(chat(max_tokens=30_000))
        await pod.session.first_payload(stream)
        pod.worker.process.send_signal(signal.SIGTERM)
        while (await pod.client.describe(None)).ready:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        pod.worker.process.send_signal(signal.SIGTERM)
        failure = (await pod.session.outcome(stream)).result
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SHUTTING_DOWN
        assert await pod.worker.ended() == 0


async def test_a_worker_ends_with_its_parent() -> None:
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-m', 'epd_worker', '--engine', 'simulated',"
        " '--listen', '127.0.0.1:0', '--exit-with-parent'], stderr=subprocess.PIPE);"
        "line = p.stderr.readline(); print(p.pid, flush=True); time.sleep(600)"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    while _is_running(pid):  # noqa: ASYNC110 - another process's end
        await asyncio.sleep(0.01)


def _is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- starting ----------------------------------------------------------------------------------


async def test_a_simulated_worker_loads_neither_torch_nor_vllm_nor_a_gateway() -> None:
    code = (
        "import sys, epd_worker.__main__, epd_worker.engine.simulated;"
        "print({name.partition('.')[0] for name in sys.modules} &"
        " {'torch', 'vllm', 'transformers', 'numpy', 'PIL', 'epd_gateway', 'epd_operator'})"
    )
    result = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


async def complaint_of(*arguments: str) -> tuple[int, str]:
    worker = await start_process(*arguments)
    status = await worker.ended()
    return status, worker.log.decode().splitlines()[-1]


async def test_a_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    curves = tmp_path / "curves.yaml"
    curves.write_text("time_scale: slow\n")
    mistakes = {
        ("--cost-curves", str(curves)): "time_scale: Input should be a valid number",
        ("--", "fast"): "engine argument 'fast'",
        (
            "--tls-cert",
            "/nowhere",
            "--tls-key",
            "/nowhere",
            "--tls-ca",
            "/nowhere",
        ): "TLS: /nowhere",
        ("--listen", "256.0.0.1:1"): "--listen 256.0.0.1:1: cannot listen there",
    }
    for arguments, expected in mistakes.items():
        status, line = await complaint_of(*arguments)
        assert status == 2
        assert line.startswith("epd-worker: error: ")
        assert expected in line


async def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    async with worker_process() as worker:
        status, line = await complaint_of("--listen", worker.address)
        assert status == 2
        assert f"--listen {worker.address}: cannot listen there; is the port taken?" in line


async def test_an_unknown_log_level_is_told_in_one_line() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "epd_worker", "--engine", "simulated"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EPD_LOG_LEVEL": "loud"},
    )
    _, log = await process.communicate()
    assert process.returncode == 2
    assert log.decode() == "epd-worker: error: EPD_LOG_LEVEL=loud: no log level\n"


# --- TLS ---------------------------------------------------------------------------------------


CERTIFICATES = Path(__file__).parents[1] / "support" / "certificates"


def tls_arguments(certificate: str, key: str, authority: str) -> list[str]:
    files = {"--tls-cert": certificate, "--tls-key": key, "--tls-ca": authority}
    return [word for option, file in files.items() for word in (option, str(CERTIFICATES / file))]


def credentials(name: str | None) -> grpc.ChannelCredentials:
    authority = (CERTIFICATES / "ca.pem").read_bytes()
    if name is None:
        return grpc.ssl_channel_credentials(authority)
    key, certificate = ((CERTIFICATES / f"{name}.{end}").read_bytes() for end in ("key", "pem"))
    return grpc.ssl_channel_credentials(authority, key, certificate)


async def test_with_tls_a_gateway_must_show_a_certificate_of_the_authority() -> None:
    async with worker_process(*tls_arguments("worker.pem", "worker.key", "ca.pem")) as worker:
        async with client_of(worker.address, credentials("gateway")) as client:
            assert (await description_where_ready(client)).ready
        for name in (None, "stranger"):
            async with client_of(worker.address, credentials(name)) as client:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await client.describe(None)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        async with client_of(worker.address) as client:
            with pytest.raises(grpc.aio.AioRpcError):
                await client.describe(None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("worker.pem", "gateway.key", "ca.pem"), "are no PEM certificate and its key"),
        (("README.md", "worker.key", "ca.pem"), "are no PEM certificate and its key"),
        (("worker.pem", "worker.key", "README.md"), "README.md holds no PEM certificate"),
        (("worker.pem", "worker.key", "nowhere"), "nowhere: No such file or directory"),
    ],
    ids=["a foreign key", "no certificate", "no authority", "no file"],
)
async def test_unusable_tls_files_are_told_in_one_line(
    files: tuple[str, str, str], expected: str
) -> None:
    status, line = await complaint_of(*tls_arguments(*files))
    assert status == 2
    assert line.startswith("epd-worker: error: TLS: ")
    assert expected in line
