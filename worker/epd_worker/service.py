"""The worker's gRPC methods: what it is, what it does, and the sessions of its gateways."""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

from epd.tracing import Tracing
from epd.wire.messages import Description, Failure, FailureKind, GatewayFrame, Load
from epd_worker.engine import Engine, EngineDescription, EngineLoad
from epd_worker.load import LoadBoard
from epd_worker.session import WRITE_TIMEOUT_S, Session

log = logging.getLogger(__name__)

MIN_WATCH_INTERVAL_MS = 10

_LOADING = Failure(FailureKind.OVERLOADED, "the worker is loading its model")
_SHUTTING_DOWN = Failure(FailureKind.SHUTTING_DOWN, "the worker is shutting down")

_LEASES_SEEN_S = 0.05
"""How often a worker that is to end looks whether all it gave has been taken."""


class WorkerService:
    """Serves an engine, before it is ready (to say so), while it is, and until it is closed.

    Attributes:
        board: Counts its work.
    """

    def __init__(
        self,
        engine: Engine,
        expected: EngineDescription,
        worker_id: str,
        tracing: Tracing | None = None,
    ) -> None:
        """Bind to an engine; `expected` describes it until it can do so itself."""
        self._tracing = tracing
        self._engine = engine
        self._engine_description = expected
        self._worker_id = worker_id
        self._incarnation = uuid.uuid4().hex
        self._board = self.board = LoadBoard()
        self._sessions: set[Session] = set()
        self._refusal: Failure | None = _LOADING
        self._closed = False

    def open(self) -> None:
        """Take work: the engine has started."""
        self._engine_description = self._engine.describe()
        self._refusal = None
        self._board.wake()

    def stop_accepting(self) -> None:
        """Refuse new work as shutting down; what is in flight goes on."""
        self._refusal = _SHUTTING_DOWN

    @property
    def is_open(self) -> bool:
        """New work is taken."""
        return self._refusal is None

    @property
    def in_flight(self) -> int:
        """How many pieces of work have begun and not ended."""
        return self._board.in_flight

    @property
    def leases(self) -> int:
        """How many handoffs other workers may still take from here."""
        load = self._engine_load()
        return load.kv_leases + load.ec_leases

    @property
    def engine_description(self) -> EngineDescription:
        """What the engine is; before it is loaded, what it is expected to be."""
        return self._engine_description

    def load(self) -> Load:
        """Return the present load."""
        return self._board.load(self._engine_load())

    async def wait_until_idle(self) -> None:
        """Return once nothing is in flight, and no other worker is still to take anything."""
        changed = self._board.watch()
        try:
            while self.in_flight or not all(session.is_idle for session in self._sessions):
                await changed.wait()
                changed.clear()
        finally:
            self._board.unwatch(changed)
        while self.leases:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(_LEASES_SEEN_S)

    def end_calls(self) -> None:
        """End all work in flight as shutting down, then every session and watch."""
        self.stop_accepting()
        for session in self._sessions:
            session.finish(_SHUTTING_DOWN)
        self._closed = True
        self._board.wake()

    async def describe(self, request: None, context: Any) -> Description:
        """Say what this worker is."""
        engine = self._engine_description
        return Description(
            worker_id=self._worker_id,
            incarnation=self._incarnation,
            model=engine.model,
            engine=engine.engine,
            compatibility_hash=engine.compatibility_hash,
            ready=self._refusal is None,
            multimodal=engine.multimodal,
            pixels_once=engine.pixels_once,
            max_model_len=engine.max_model_len,
            max_images=engine.max_images,
            kv_capacity_tokens=engine.kv_capacity_tokens,
            process_id=os.getpid(),
        )

    async def watch_load(self, interval_ms: int, context: Any) -> AsyncIterator[Load]:
        """Yield the load at once and at each change, at most every `interval_ms`."""
        interval_s = max(interval_ms, MIN_WATCH_INTERVAL_MS) / 1e3
        changed = self._board.watch()
        last: Load | None = None
        try:
            while not self._closed:
                changed.clear()
                load = self.load()
                if load != last:
                    yield load
                    last = load
                elif not _moves_by_itself(load):
                    await changed.wait()
                    continue
                await asyncio.sleep(interval_s)
        finally:
            self._board.unwatch(changed)

    async def session(self, frames: AsyncIterator[GatewayFrame], context: Any) -> None:
        """Serve one gateway until either side ends the call."""
        session = Session(self._engine, self._board, lambda: self._refusal, self._tracing)
        self._sessions.add(session)
        reader = asyncio.create_task(_read(frames, session))
        writer = asyncio.create_task(session.write_frames(context.write))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sessions.discard(session)
            reader.cancel()
            writer.cancel()
            await session.end()
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        await _end_call(ends, context)

    def _engine_load(self) -> EngineLoad:
        return EngineLoad() if self._refusal is _LOADING else self._engine.load()


async def _read(frames: AsyncIterator[GatewayFrame], session: Session) -> None:
    async for frame in frames:
        session.accept(frame)


def _moves_by_itself(load: Load) -> bool:
    """Tell whether the load can change without any work beginning or ending."""
    stages = (load.encode, load.prefill, load.decode)
    in_flight = sum(stage.waiting + stage.running for stage in stages)
    kept = load.kv_leases + load.ec_leases + load.kv_used_permille + load.ec_used_permille
    return bool(in_flight or kept or load.running_tokens)


async def _end_call(ends: Sequence[BaseException | None], context: Any) -> None:
    """Give the call the status that fits how its reader and its writer ended."""
    for end in ends:
        if isinstance(end, ValueError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(end))
        if isinstance(end, TimeoutError):
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the gateway has read nothing for {WRITE_TIMEOUT_S:.0f} s",
            )
        if end is not None and not isinstance(end, asyncio.CancelledError | grpc.aio.BaseError):
            log.error("a session broke: %s", type(end).__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "the session broke")
