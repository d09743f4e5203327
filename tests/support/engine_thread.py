"""An engine on an event loop of its own, so that one engine can serve many tests.

Every test has its own loop and a vLLM engine is bound to the one it was started on. Calls cross
by `run_coroutine_threadsafe`, emissions come back by `call_soon_threadsafe`, in order.
"""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from epd.wire.messages import Completed, EcHandle, Encode, Generate, Prefilled
from epd_worker.engine import Emit, Engine, EngineDescription, EngineLoad, StageClock

_T = TypeVar("_T")


class EngineThread:
    """`Engine` over another engine that lives on a thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def _there(self, call: Coroutine[Any, Any, _T]) -> "asyncio.Future[_T]":
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def start(self) -> None:
        await self._there(self.engine.start())

    def describe(self) -> EngineDescription:
        return self.engine.describe()

    def load(self) -> EngineLoad:
        return self.engine.load()

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        return await self._there(self.engine.encode(request_id, work, clock))

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        home = asyncio.get_running_loop()

        def emit_at_home(payload: bytes, token_ids: bytes) -> None:
            home.call_soon_threadsafe(emit, payload, token_ids)

        return await self._there(
            self.engine.generate(request_id, work, emit_at_home, clock, priority)
        )

    async def release(self, kv_identifiers: Sequence[str], ec_identifiers: Sequence[str]) -> None:
        await self._there(self.engine.release(kv_identifiers, ec_identifiers))

    async def watch(self) -> str:
        return await self._there(self.engine.watch())

    async def close(self) -> None:
        if self._thread.is_alive():
            await self._there(self.engine.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join)
            self._loop.close()
