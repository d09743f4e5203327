"""The worker's gRPC methods over a real socket, with an engine that does as it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scripted_engine import DESCRIPTION, PREFILLED, Call, ScriptedEngine
from worker_process import GatewaySession, client_of, load_where

from epd.wire import codec
from epd.wire.messages import (
    Api,
    Completed,
    Failure,
    FailureKind,
    Generate,
    Load,
    Phase,
    StageLoad,
    Submit,
)
from epd.wire.service import SERVER_OPTIONS, SERVICE, WorkerClient, add_worker_service
from epd_worker.engine import EngineLoad
from epd_worker.health import Health
from epd_worker.service import WorkerService


def generate(stream: int, phase: Phase = Phase.WHOLE) -> Submit:
    return Submit(stream, f"r{stream}", Generate(phase, Api.COMPLETIONS, b"{}"))


@dataclass
class Served:
    """A service that listens, and one client."""

    engine: ScriptedEngine
    service: WorkerService
    health: Health
    address: str
    client: WorkerClient

    async def call(self, request_id: str) -> Call:
        """Return the engine's call for a request once it is there."""
        while request_id not in self.engine.calls:  # noqa: ASYNC110 - the engine is a plain dict
            await asyncio.sleep(0.001)
        return self.engine.calls[request_id]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    engine = ScriptedEngine()
    service = WorkerService(engine, DESCRIPTION, "w0")
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_worker_service(server, service)
    health = Health(server)
    await health.set_serving(False)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    address = f"127.0.0.1:{port}"
    async with client_of(address) as client:
        yield Served(engine, service, health, address, client)
    service.end_calls()
    await server.stop(None)


# --- before, during and after ------------------------------------------------------------------


async def test_a_worker_that_loads_says_so_and_takes_no_work(served: Served) -> None:
    assert not (await served.client.describe(None)).ready
    session = GatewaySession(served.client)
    await session.send(generate(1))
    failure = (await session.outcome(1)).result
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.OVERLOADED


async def test_an_open_worker_describes_itself(served: Served) -> None:
    served.service.open()
    description = await served.client.describe(None)
    assert description.ready
    assert description.worker_id == "w0"
    assert len(description.incarnation) == 32
    assert description.process_id > 0
    for name in DESCRIPTION.__dataclass_fields__:
        assert getattr(description, name) == getattr(DESCRIPTION, name)


async def test_a_worker_that_ends_refuses_new_work_and_lets_the_old_finish(served: Served) -> None:
    served.service.open()
    session = GatewaySession(served.client)
    await session.send(generate(1))
    call = await served.call("r1")
    served.service.stop_accepting()
    assert not (await served.client.describe(None)).ready
    await session.send(generate(2))
    failure = (await session.outcome(2)).result
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.SHUTTING_DOWN
    call.result.set_result(Completed(1, 1))
    assert (await session.outcome(1)).result == Completed(1, 1)
    await served.service.wait_until_idle()


async def test_at_the_end_every_stream_is_told_and_every_call_ends(served: Served) -> None:
    served.service.open()
    session = GatewaySession(served.client)
    watch = served.client.watch_load(10)
    await watch.read()
    await session.send(generate(1), generate(2))
    await served.call("r2")
    served.service.end_calls()
    for stream in (1, 2):
        failure = (await session.outcome(stream)).result
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SHUTTING_DOWN
    assert not await session.receive()
    assert await session.call.code() is grpc.StatusCode.OK
    while await watch.read() is not grpc.aio.EOF:
        pass
    assert await watch.code() is grpc.StatusCode.OK


# --- sessions ----------------------------------------------------------------------------------


async def test_the_end_of_a_session_cancels_its_streams_and_no_others(served: Served) -> None:
    served.service.open()
    leaving, staying = GatewaySession(served.client), GatewaySession(served.client)
    await leaving.send(generate(1))
    await staying.send(generate(2))
    left, stayed = await served.call("r1"), await served.call("r2")
    leaving.call.cancel()
    await load_where(served.client, lambda load: load.prefill.cancelled_total == 1)
    assert left.was_cancelled
    stayed.result.set_result(Completed(1, 2))
    assert (await staying.outcome(2)).result == Completed(1, 2)


async def test_a_gateway_that_says_nothing_more_has_ended_its_session(served: Served) -> None:
    served.service.open()
    session = GatewaySession(served.client)
    await session.send(generate(1))
    call = await served.call("r1")
    await session.call.done_writing()
    assert not await session.receive()
    assert call.was_cancelled


async def test_a_cancel_reaches_the_engine(served: Served) -> None:
    served.service.open()
    session = GatewaySession(served.client)
    await session.send(generate(1), generate(2))
    call = await served.call("r1")
    await session.send(cancels=[1, 77])
    await load_where(served.client, lambda load: load.prefill.cancelled_total == 1)
    assert call.was_cancelled
    (await served.call("r2")).result.set_result(PREFILLED)
    assert (await session.outcome(2)).result == PREFILLED


async def test_a_stream_number_in_use_fails_the_call_with_a_clear_message(served: Served) -> None:
    served.service.open()
    session = GatewaySession(served.client)
    await session.send(generate(7))
    call = await served.call("r7")
    await session.send(generate(7))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await session.receive()
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details() == "stream 7 is in use already"
    await load_where(served.client, lambda load: load.prefill.cancelled_total == 1)
    assert call.was_cancelled


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\x08\x05"], ids=["garbage", "no work"])
async def test_bytes_that_are_no_frame_fail_the_call_with_a_clear_message(
    served: Served, data: bytes
) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Session")()
        await call.write(data)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details() in (
        "submit 5 holds no work",
        "not a GatewayFrame message: Error parsing message with type "
        "'epd.worker.v1.GatewayFrame': Wire format was corrupt",
    )


# --- load --------------------------------------------------------------------------------------


async def test_a_watch_tells_the_load_at_once_and_at_each_change(served: Served) -> None:
    served.service.open()
    watch = served.client.watch_load(10)
    assert await watch.read() == Load()
    session = GatewaySession(served.client)
    await session.send(generate(1))
    began = await watch.read()
    assert began.prefill == StageLoad(running=1, started_total=1)
    (await served.call("r1")).result.set_result(Completed())
    ended = await watch.read()
    assert (ended.prefill.running, ended.prefill.finished_total) == (0, 1)
    assert ended.prefill.service_us_total > 0
    watch.cancel()


async def test_a_watch_shows_what_only_the_engine_knows(served: Served) -> None:
    served.service.open()
    session = GatewaySession(served.client)
    await session.send(generate(1), generate(2), generate(3))
    await served.call("r3")
    served.engine.present_load = EngineLoad(
        kv_used_permille=500, kv_leases=2, running_tokens=77, waiting_prefill=2,
        waiting_prefill_tokens=50, kv_received_bytes_total=4096,
    )  # fmt: skip
    load = await load_where(served.client, lambda load: load.kv_leases == 2)
    assert (load.prefill.waiting, load.prefill.running) == (2, 1)
    assert (load.running_tokens, load.waiting_prefill_tokens) == (77, 50)
    assert (load.kv_used_permille, load.kv_received_bytes_total) == (500, 4096)


@pytest.mark.parametrize(
    "kept", ["kv_leases", "ec_leases", "kv_used_permille", "ec_used_permille", "running_tokens"]
)
async def test_a_watch_sees_what_is_kept_go_though_nothing_else_happens(
    served: Served, kept: str
) -> None:
    served.service.open()
    served.engine.present_load = EngineLoad(**{kept: 1})
    watch = served.client.watch_load(10)
    assert getattr(await watch.read(), kept) == 1
    while served.engine.load_calls < 3:  # noqa: ASYNC110 - the engine is a plain object
        await asyncio.sleep(0.001)
    served.engine.present_load = EngineLoad()
    assert getattr(await watch.read(), kept) == 0
    watch.cancel()


async def test_a_watch_of_an_idle_worker_asks_the_engine_nothing(served: Served) -> None:
    served.service.open()
    watch = served.client.watch_load(10)
    await watch.read()
    while served.engine.load_calls < 2:  # noqa: ASYNC110 - the engine is a plain object
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)  # ten intervals
    assert served.engine.load_calls == 2
    watch.cancel()


async def test_a_watch_before_the_engine_has_started_asks_it_nothing(served: Served) -> None:
    served.engine.present_load = EngineLoad(kv_leases=1)
    watch = served.client.watch_load(10)
    assert (await watch.read()).kv_leases == 0
    served.service.open()
    assert (await watch.read()).kv_leases == 1
    watch.cancel()


# --- health and reflection ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", SERVICE])
async def test_health_follows_the_worker(served: Served, name: str) -> None:
    states = health_pb2.HealthCheckResponse
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=name)
        assert (await stub.Check(request)).status == states.NOT_SERVING
        await served.health.set_serving(True)
        assert (await stub.Check(request)).status == states.SERVING
        await served.health.set_serving(False)
        assert (await stub.Check(request)).status == states.NOT_SERVING


async def test_reflection_is_off(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        call = channel.stream_stream(method)(iter([codec.encode_empty(None)]))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
