"""One session: frames by engine step, order, ends, cancellation, counters."""

import asyncio
import logging
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from scripted_engine import EC, PREFILLED, Call, ScriptedEngine

from epd.vocabulary import Stage
from epd.wire.messages import (
    Api,
    Completed,
    Encode,
    Failure,
    FailureKind,
    GatewayFrame,
    Generate,
    Image,
    Outcome,
    Phase,
    Submit,
    WorkerFrame,
)
from epd_worker import session as session_module
from epd_worker.engine import EngineError
from epd_worker.load import LoadBoard
from epd_worker.session import Session


def tokens(*ids: int) -> bytes:
    return array("I", ids).tobytes()


def generate(stream: int, phase: Phase = Phase.WHOLE) -> Submit:
    return Submit(stream, f"r{stream}", Generate(phase, Api.COMPLETIONS, b"{}"))


def encode(stream: int) -> Submit:
    return Submit(stream, f"r{stream}", Encode(Image(b"pixels")))


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(8):
        await asyncio.sleep(0)


class Room:
    """A session between a scripted engine and a gateway that notes what it reads."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.board = LoadBoard()
        self.refusal: Failure | None = None
        self.session = Session(self.engine, self.board, lambda: self.refusal)
        self.frames: list[WorkerFrame] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, frame: WorkerFrame) -> None:
        self.frames.append(frame)
        await self.reads.wait()

    async def submit(self, *submits: Submit) -> list[Call]:
        self.session.accept(GatewayFrame(submits=submits))
        await turns()
        return [self.engine.calls[submit.request_id] for submit in submits]

    def counters(self, stage: Stage) -> tuple[int, int, int, int, int]:
        """Return in flight, started, finished, failed, cancelled."""
        counters = self.board.stages[stage]
        ends = (counters.finished, counters.failed, counters.cancelled)
        return (counters.in_flight, counters.started, *ends)

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for frame in self.frames for outcome in frame.outcomes]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    writer = asyncio.create_task(room.session.write_frames(room.write))
    yield room
    writer.cancel()
    await room.session.end()


def emit(call: Call, payload: bytes, *ids: int) -> None:
    assert call.emit is not None
    call.emit(payload, tokens(*ids))


# --- frames ------------------------------------------------------------------------------------


async def test_what_one_engine_step_emits_is_one_frame(room: Room) -> None:
    one, two, three = await room.submit(*(generate(stream) for stream in (1, 2, 3)))
    for call in (one, two, three):
        emit(call, b"first ", 7)
    await turns()
    room.frames.clear()
    emit(one, b"aa", 1)
    emit(two, b"b", 2, 3)
    emit(three, b"", 4)
    await turns()
    (frame,) = room.frames
    assert list(frame.streams) == [1, 2, 3]
    assert list(frame.sizes) == [2, 1, 0]
    assert list(frame.token_counts) == [1, 2, 1]
    assert frame.payload == b"aab"
    assert frame.token_ids == tokens(1, 2, 3, 4)


async def test_an_end_travels_in_the_frame_of_the_step_that_brought_it(room: Room) -> None:
    one, two = await room.submit(generate(1), generate(2))
    emit(one, b"last", 1)
    one.result.set_result(Completed(5, 1))
    emit(two, b"more", 2)
    await turns()
    (frame,) = room.frames
    assert frame.payload == b"lastmore"
    (outcome,) = frame.outcomes
    assert (outcome.stream, outcome.result) == (1, Completed(5, 1))


async def test_first_tokens_lead_a_frame(room: Room) -> None:
    old, new = await room.submit(generate(1), generate(2))
    emit(old, b"1", 1)
    await turns()
    room.frames.clear()
    emit(old, b"2", 2)
    emit(new, b"A", 3)
    emit(new, b"B", 4)
    await turns()
    (frame,) = room.frames
    assert list(frame.streams) == [2, 1, 2]
    assert frame.payload == b"A2B"
    assert frame.token_ids == tokens(3, 2, 4)


async def test_steps_join_while_the_gateway_is_slow(room: Room) -> None:
    (call,) = await room.submit(generate(1))
    room.reads.clear()
    for step in range(10):
        emit(call, b"%d" % step, step)
        await turns()
    assert len(room.frames) == 1
    room.reads.set()
    await turns()
    assert [frame.payload for frame in room.frames] == [b"0", b"123456789"]


async def test_a_gateway_that_never_reads_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "WRITE_TIMEOUT_S", 0)
    room = Room()
    room.reads.clear()
    writer = asyncio.create_task(room.session.write_frames(room.write))
    (call,) = await room.submit(generate(1))
    emit(call, b"x", 1)
    with pytest.raises(TimeoutError):
        await writer
    await room.session.end()
    assert call.was_cancelled


# --- ends --------------------------------------------------------------------------------------


async def test_each_kind_of_result_arrives(room: Room) -> None:
    calls = await room.submit(encode(1), generate(2, Phase.PREFILL), generate(3, Phase.DECODE))
    calls[0].result.set_result(EC)
    calls[1].result.set_result(PREFILLED)
    calls[2].clock.handoff_us = 17
    calls[2].result.set_result(Completed(5, 3))
    await turns()
    results = {outcome.stream: outcome.result for outcome in room.outcomes}
    assert results == {1: EC, 2: PREFILLED, 3: Completed(5, 3)}
    assert {outcome.stream: outcome.handoff_us for outcome in room.outcomes}[3] == 17
    assert room.session.is_idle


async def test_an_engines_error_arrives_as_a_failure(room: Room) -> None:
    (call,) = await room.submit(generate(1))
    error = EngineError(FailureKind.REFUSED, "too long", status=400, body=b"{}")
    call.result.set_exception(error)
    await turns()
    (outcome,) = room.outcomes
    assert outcome.result == Failure(FailureKind.REFUSED, "too long", 400, b"{}")


async def test_an_unexpected_error_tells_neither_log_nor_gateway_the_prompt(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    (call,) = await room.submit(generate(1))
    with caplog.at_level(logging.DEBUG):
        call.result.set_exception(KeyError("the secret prompt"))
        await turns()
    (outcome,) = room.outcomes
    assert isinstance(outcome.result, Failure)
    assert outcome.result.kind is FailureKind.INTERNAL
    assert "secret" not in outcome.result.message + caplog.text
    assert "KeyError" in caplog.text
    assert "scripted_engine.py" in caplog.text


async def test_work_is_refused_with_the_reason_while_there_is_one(room: Room) -> None:
    room.refusal = Failure(FailureKind.OVERLOADED, "loading")
    room.session.accept(GatewayFrame(submits=[generate(1)]))
    await turns()
    assert [(outcome.stream, outcome.result) for outcome in room.outcomes] == [(1, room.refusal)]
    assert room.engine.calls == {}
    assert room.session.is_idle


async def test_a_stream_number_in_use_is_a_mistake(room: Room) -> None:
    await room.submit(generate(1))
    with pytest.raises(ValueError, match="stream 1 is in use"):
        room.session.accept(GatewayFrame(submits=[generate(1)]))


# --- cancellation and release ------------------------------------------------------------------


async def test_a_cancelled_stream_stops_in_the_engine_and_says_nothing_more(room: Room) -> None:
    one, two = await room.submit(generate(1), generate(2))
    room.session.accept(GatewayFrame(cancels=[1, 99]))
    await turns()
    assert one.was_cancelled
    assert not two.was_cancelled
    assert room.outcomes == []


async def test_a_result_that_crosses_a_cancel_is_released_and_not_told(room: Room) -> None:
    prefill, image = await room.submit(generate(1, Phase.PREFILL), encode(2))
    prefill.despite_cancel = PREFILLED
    image.despite_cancel = EC
    room.session.accept(GatewayFrame(cancels=[1, 2]))
    await turns()
    assert room.outcomes == []
    assert sorted(room.engine.released) == [([], ["embedding"]), (["cache"], [])]


async def test_handles_are_released_when_the_gateway_says_so(room: Room) -> None:
    room.session.accept(GatewayFrame(release_kv=["a"], release_ec=["b", "c"]))
    await turns()
    assert room.engine.released == [(["a"], ["b", "c"])]


async def test_the_end_of_a_session_cancels_its_streams_and_releases_what_was_not_told() -> None:
    room = Room()  # nobody writes: the outcome stays here
    prefill, other = await room.submit(generate(1, Phase.PREFILL), generate(2))
    prefill.result.set_result(PREFILLED)
    await turns()
    await room.session.end()
    assert other.was_cancelled
    assert room.engine.released == [(["cache"], [])]


async def test_finishing_fails_every_stream_and_returns_when_that_is_written() -> None:
    room = Room()
    one, two = await room.submit(generate(1), generate(2))
    emit(one, b"so far", 1)
    farewell = Failure(FailureKind.SHUTTING_DOWN, "bye")
    room.session.finish(farewell)
    await room.session.write_frames(room.write)
    assert {outcome.stream: outcome.result for outcome in room.outcomes} == {
        1: farewell,
        2: farewell,
    }
    assert room.frames[0].payload == b"so far"
    await turns()
    assert (one.was_cancelled, two.was_cancelled) == (True, True)


# --- counters ----------------------------------------------------------------------------------


async def test_a_whole_counts_as_prefill_and_after_its_first_token_as_decode(room: Room) -> None:
    (call,) = await room.submit(generate(1))
    assert room.counters(Stage.PREFILL) == (1, 1, 0, 0, 0)
    assert room.counters(Stage.DECODE) == (0, 0, 0, 0, 0)
    emit(call, b"x", 1)
    assert room.counters(Stage.PREFILL) == (0, 1, 1, 0, 0)
    assert room.counters(Stage.DECODE) == (1, 1, 0, 0, 0)
    emit(call, b"y", 2)
    call.result.set_result(Completed())
    await turns()
    assert room.counters(Stage.DECODE) == (0, 1, 1, 0, 0)
    assert room.counters(Stage.ENCODE) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("submit", "stage"),
    [
        (encode(1), Stage.ENCODE),
        (generate(1, Phase.PREFILL), Stage.PREFILL),
        (generate(1, Phase.DECODE), Stage.DECODE),
    ],
    ids=["encode", "prefill", "decode"],
)
@pytest.mark.parametrize("end", ["finished", "failed", "cancelled"])
async def test_each_stage_counts_its_own_work_and_how_it_ended(
    room: Room, submit: Submit, stage: Stage, end: str
) -> None:
    (call,) = await room.submit(submit)
    assert room.counters(stage) == (1, 1, 0, 0, 0)
    if call.emit is not None:
        emit(call, b"x", 1)
    if end == "finished":
        call.result.set_result(EC if stage is Stage.ENCODE else Completed())
    elif end == "failed":
        call.result.set_exception(EngineError(FailureKind.INTERNAL, "broken"))
    else:
        room.session.accept(GatewayFrame(cancels=[1]))
    await turns()
    ends = tuple(int(end == kind) for kind in ("finished", "failed", "cancelled"))
    assert room.counters(stage) == (0, 1, *ends)
    others = [other for other in Stage if other is not stage]
    assert all(room.counters(other) == (0, 0, 0, 0, 0) for other in others)


async def test_a_whole_that_fails_after_its_first_token_has_failed_in_decode(room: Room) -> None:
    (call,) = await room.submit(generate(1))
    emit(call, b"x", 1)
    call.result.set_exception(EngineError(FailureKind.INTERNAL, "broken"))
    await turns()
    assert room.counters(Stage.PREFILL) == (0, 1, 1, 0, 0)
    assert room.counters(Stage.DECODE) == (0, 1, 0, 1, 0)


async def test_tokens_count_when_their_stage_ends_not_when_the_answer_does(room: Room) -> None:
    (picture, prompt, whole, answer) = await room.submit(
        encode(1), generate(2, Phase.PREFILL), generate(3), generate(4, Phase.DECODE)
    )
    prompt.clock.prompt_tokens, whole.clock.prompt_tokens = 100, 7
    picture.result.set_result(replace(EC, tokens=50))
    prompt.result.set_result(PREFILLED)
    answer.result.set_result(Completed(9, 20))
    emit(whole, b"x", 1)
    await turns()
    known = {stage: counters.tokens for stage, counters in room.board.stages.items()}
    assert known == {Stage.ENCODE: 50, Stage.PREFILL: 107, Stage.DECODE: 20}
    whole.result.set_result(Completed(7, 3))
    await turns()
    assert room.board.stages[Stage.DECODE].tokens == 23
