"""An engine that does what the test says, when the test says so."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from epd.wire.messages import Completed, EcHandle, Encode, Generate, KvHandle, Prefilled
from epd_worker.engine import Emit, EngineDescription, EngineLoad, StageClock

DESCRIPTION = EngineDescription(
    model="tiny",
    engine="scripted",
    compatibility_hash="abc",
    multimodal=True,
    pixels_once=True,
    max_model_len=128,
    max_images=2,
    kv_capacity_tokens=1024,
)
EC = EcHandle("w", "abc", "embedding")
PREFILLED = Prefilled(KvHandle("w", "abc", "cache"), b"rendered")


@dataclass
class Call:
    """One call of `generate` or `encode`; the test emits for it and ends it."""

    request_id: str
    work: Encode | Generate
    emit: Emit | None
    result: asyncio.Future[Prefilled | Completed | EcHandle]
    clock: StageClock
    was_cancelled: bool = False
    despite_cancel: Prefilled | EcHandle | None = None
    """Returned when the call is cancelled, as by an engine that was just done."""


@dataclass
class ScriptedEngine:
    """Implements `Engine`; every call waits in `calls` under its request id."""

    calls: dict[str, Call] = field(default_factory=dict)
    released: list[tuple[list[str], list[str]]] = field(default_factory=list)
    present_load: EngineLoad = EngineLoad()  # noqa: RUF009 - frozen
    started: asyncio.Event = field(default_factory=asyncio.Event)
    death: asyncio.Future[str] | None = None
    load_calls: int = 0
    closed: int = 0

    async def start(self) -> None:
        await self.started.wait()

    def describe(self) -> EngineDescription:
        return DESCRIPTION

    def load(self) -> EngineLoad:
        self.load_calls += 1
        return self.present_load

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        result = await self._call(request_id, work, None, clock)
        assert isinstance(result, EcHandle)
        return result

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        result = await self._call(request_id, work, emit, clock)
        assert not isinstance(result, EcHandle)
        return result

    async def release(self, kv_identifiers: Sequence[str], ec_identifiers: Sequence[str]) -> None:
        self.released.append((list(kv_identifiers), list(ec_identifiers)))

    async def watch(self) -> str:
        self.death = asyncio.get_running_loop().create_future()
        return await self.death

    async def close(self) -> None:
        self.closed += 1

    async def _call(
        self, request_id: str, work: Encode | Generate, emit: Emit | None, clock: StageClock
    ) -> Prefilled | Completed | EcHandle:
        call = Call(request_id, work, emit, asyncio.get_running_loop().create_future(), clock)
        self.calls[request_id] = call
        try:
            return await call.result
        except asyncio.CancelledError:
            call.was_cancelled = True
            if call.despite_cancel is not None:
                return call.despite_cancel
            raise
