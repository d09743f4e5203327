"""One gateway's session: its work goes to the engine, results go back one frame an engine step.

There is one task for each stage of a request and one that writes. What an engine emits per token
is appended to a list; nothing is created, awaited or woken for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import monotonic
from typing import Any

from epd.logs import places
from epd.tracing import Tracing, trace_id_of
from epd.vocabulary import Stage
from epd.wire.messages import (
    Completed,
    EcHandle,
    Encode,
    Failure,
    FailureKind,
    GatewayFrame,
    Generate,
    Outcome,
    Phase,
    Prefilled,
    Submit,
    WorkerFrame,
)
from epd_worker.engine import Emit, Engine, EngineError, StageClock
from epd_worker.load import LoadBoard
from epd_worker.work_span import WorkSpan

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 15.0
"""A gateway that takes nothing for so long has lost its session, and what waits for it."""


class Outbox:
    """What was emitted and not yet written. First tokens of requests lead a frame."""

    def __init__(self) -> None:
        self.filled = asyncio.Event()
        self.firsts: list[tuple[int, bytes, bytes]] = []
        self.events: list[tuple[int, bytes, bytes]] = []
        self.outcomes: list[Outcome] = []

    def put(self, outcome: Outcome) -> None:
        """Add the end of a stream."""
        self.outcomes.append(outcome)
        self.filled.set()

    def take(self) -> WorkerFrame | None:
        """Return all of it as one frame, None if there is nothing."""
        self.filled.clear()
        frame = None
        if self.firsts or self.events:
            streams, payloads, tokens = zip(*self.firsts, *self.events, strict=True)
            frame = WorkerFrame(
                streams=streams,
                sizes=list(map(len, payloads)),
                token_counts=[len(ids) >> 2 for ids in tokens],
                payload=b"".join(payloads),
                token_ids=b"".join(tokens),
                outcomes=self.outcomes,
            )
            self.firsts.clear()
            self.events.clear()
        elif self.outcomes:
            frame = WorkerFrame(outcomes=self.outcomes)
        self.outcomes = []
        return frame


class _Progress:
    """Counts one submit in the stages that it passes through."""

    def __init__(self, board: LoadBoard, work: Encode | Generate) -> None:
        self._board = board
        self._is_whole = isinstance(work, Generate) and work.phase is Phase.WHOLE
        if isinstance(work, Encode):
            self.stage = Stage.ENCODE
        else:
            self.stage = Stage.DECODE if work.phase is Phase.DECODE else Stage.PREFILL
        self.visit = board.begin(self.stage)

    def first_token(self, clock: StageClock) -> None:
        """Pass from prefill to decode, where this worker does both."""
        if self._is_whole:
            self.visit.finish(clock.prompt_tokens)
            self.stage = Stage.DECODE
            self.visit = self._board.begin(Stage.DECODE)

    def finish(self, result: EcHandle | Prefilled | Completed, clock: StageClock) -> None:
        """Count what is done, with the tokens of its image, its prompt or its answer."""
        if isinstance(result, EcHandle):
            self.visit.finish(result.tokens)
        elif self.stage is Stage.DECODE and isinstance(result, Completed):
            self.visit.finish(result.output_tokens)
        else:
            self.visit.finish(clock.prompt_tokens)


class Session:
    """The streams of one gateway on this worker."""

    def __init__(
        self,
        engine: Engine,
        board: LoadBoard,
        refuse: Callable[[], Failure | None],
        tracing: Tracing | None = None,
    ) -> None:
        """Bind to the engine.

        Args:
            engine: Does the work.
            board: Counts it.
            refuse: Says why no new work is taken; None while it is.
            tracing: Makes spans of it; None: nobody wants any.
        """
        self._tracing = tracing
        self._engine = engine
        self._board = board
        self._refuse = refuse
        self._outbox = Outbox()
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._finishing = False

    @property
    def is_idle(self) -> bool:
        """Whether no stream is in flight."""
        return not self._streams

    def accept(self, frame: GatewayFrame) -> None:
        """Begin, cancel and release what a frame says; ValueError if it makes no sense."""
        for submit in frame.submits:
            if submit.stream in self._streams:
                raise ValueError(f"stream {submit.stream} is in use already")
            self._streams[submit.stream] = asyncio.create_task(self._serve(submit))
        for stream in frame.cancels:
            task = self._streams.pop(stream, None)
            if task is not None:
                task.cancel()
        if frame.release_kv or frame.release_ec:
            self._release(frame.release_kv, frame.release_ec)

    async def write_frames(self, write: Callable[[WorkerFrame], Awaitable[None]]) -> None:
        """Write what the engine emits, one frame a step, until `finish`.

        While a write is under way, what is emitted joins the next frame. Raises `TimeoutError`
        when one takes longer than `WRITE_TIMEOUT_S`.
        """
        outbox, stepped_s = self._outbox, 0.0
        while not self._finishing or outbox.filled.is_set():
            await outbox.filled.wait()
            # Tasks whose last token came with this step end in this turn: their outcomes go along.
            await asyncio.sleep(0)
            frame = outbox.take()
            if frame is not None:
                stepped_s = self._note_step(frame, stepped_s)
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await write(frame)

    def _note_step(self, frame: WorkerFrame, before_s: float) -> float:
        """Tell how long a step took; return when it was, 0 if nothing is under way after it."""
        if not frame.streams:
            return before_s if self._streams else 0.0
        now_s = monotonic()
        if before_s:
            self._board.on_step(now_s - before_s)
        return now_s if self._streams else 0.0

    def finish(self, failure: Failure) -> None:
        """End every stream with `failure`; `write_frames` returns once that is written."""
        for stream, task in self._streams.items():
            task.cancel()
            self._outbox.put(Outcome(stream, failure))
        self._streams.clear()
        self._finishing = True
        self._outbox.filled.set()

    async def end(self) -> None:
        """Cancel every stream, release what the gateway was not told of, wait for both."""
        tasks = list(self._streams.values())
        self._streams.clear()
        for task in tasks:
            task.cancel()
        for outcome in self._outbox.outcomes:
            self._release_result(outcome.result)
        await asyncio.gather(*tasks, *self._releases, return_exceptions=True)

    async def _serve(self, submit: Submit) -> None:
        refusal = self._refuse()
        if refusal is not None:
            del self._streams[submit.stream]
            self._outbox.put(Outcome(submit.stream, refusal))
            return
        progress = _Progress(self._board, submit.work)
        clock = StageClock()
        start_s = monotonic()
        span = self._begin_span(submit)
        result: EcHandle | Prefilled | Completed | Failure
        try:
            result = done = await self._work(submit, progress, clock)
        except asyncio.CancelledError:
            progress.visit.cancel()
            if span is not None:
                span.end(clock.handoff_us, "cancelled")
            raise
        except EngineError as error:
            progress.visit.fail()
            result = _told(submit, error)
        except Exception as error:
            progress.visit.fail()
            result = _unexpected(submit, error)
        else:
            progress.finish(done, clock)
        if span is not None:
            span.end(clock.handoff_us, _failure_of(result))
        if self._streams.pop(submit.stream, None) is None:
            self._release_result(result)  # cancelled too late for the engine to notice
            return
        if clock.handoff_us:
            takes_kv = isinstance(submit.work, Generate) and submit.work.phase is Phase.DECODE
            self._board.on_handoff("kv" if takes_kv else "ec", clock.handoff_us / 1e6)
        service_us = round((monotonic() - start_s) * 1e6)
        self._outbox.put(Outcome(submit.stream, result, service_us, clock.handoff_us))

    def _begin_span(self, submit: Submit) -> WorkSpan | None:
        if self._tracing is None or not submit.traceparent:
            return None
        return WorkSpan(self._tracing, submit)

    def _work(
        self, submit: Submit, progress: _Progress, clock: StageClock
    ) -> Coroutine[Any, Any, EcHandle | Prefilled | Completed]:
        work = submit.work
        if isinstance(work, Encode):
            return self._engine.encode(submit.request_id, work, clock)
        emit = self._emitter(submit.stream, progress, clock)
        return self._engine.generate(submit.request_id, work, emit, clock, submit.priority)

    def _emitter(self, stream: int, progress: _Progress, clock: StageClock) -> Emit:
        """Return the callback that an engine calls for each token of `stream`."""
        filled = self._outbox.filled
        append = self._outbox.events.append
        firsts = self._outbox.firsts
        is_first = True

        def emit(payload: bytes, token_ids: bytes) -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                progress.first_token(clock)
                firsts.append((stream, payload, token_ids))
            else:
                append((stream, payload, token_ids))
            filled.set()

        return emit

    def _release_result(self, result: EcHandle | Prefilled | Completed | Failure) -> None:
        if isinstance(result, Prefilled):
            self._release([result.kv.identifier], [])
        elif isinstance(result, EcHandle):
            self._release([], [result.identifier])

    def _release(self, kv: Sequence[str], ec: Sequence[str]) -> None:
        async def release() -> None:
            await self._engine.release(kv, ec)
            self._board.wake()

        task = asyncio.create_task(release())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)


def _log_fields(submit: Submit) -> dict[str, str]:
    """Return what every line about a piece of work says."""
    trace = trace_id_of(submit.traceparent) if submit.traceparent else submit.request_id
    return {"request": submit.request_id, "trace": trace}


def _failure_of(result: EcHandle | Prefilled | Completed | Failure) -> str:
    return result.kind.name.lower() if isinstance(result, Failure) else ""


def _told(submit: Submit, error: EngineError) -> Failure:
    """Return what an engine could not do; a client's own mistake is not worth a line."""
    if error.kind is not FailureKind.REFUSED:
        fields = {**_log_fields(submit), "reason": error.kind.name.lower()}
        log.info("work was not done", extra=fields)
    return Failure(error.kind, error.message, error.status, error.body)


def _unexpected(submit: Submit, error: Exception) -> Failure:
    """Log where an engine broke, without its message: that may quote a prompt."""
    where = places(error.__traceback__)
    log.error("%s at %s", type(error).__name__, where, extra=_log_fields(submit))
    return Failure(FailureKind.INTERNAL, "the engine failed; the worker's log says where")
