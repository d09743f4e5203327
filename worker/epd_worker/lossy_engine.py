"""An engine that loses some of the handoffs it should take, on purpose; any engine can be inside.

For `epd fault lossy-handoff`. It stands before the engine, so both engines fail alike: the stage
ends with `HANDOFF_LOST` before anything is fetched, as if the giving pod no longer had it.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from epd.lossy_handoff import LossyHandoff
from epd.wire.messages import Completed, EcHandle, Encode, FailureKind, Generate, Prefilled
from epd_worker.engine import (
    Emit,
    Engine,
    EngineDescription,
    EngineError,
    EngineLoad,
    StageClock,
)


class LossyEngine:
    """An `Engine` before another; asks a file at each handoff whether it is to be lost."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        orders: Path,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Stand before `engine`.

        Args:
            engine: Does the work.
            name: The worker's; what it kept itself is no handoff.
            orders: Holds a `LossyHandoff`, or is not there.
            seed: Draws which handoffs are lost.
            clock: Seconds since the epoch; for tests.
        """
        self._engine = engine
        self._name = name
        self._orders = orders
        self._random = random.Random(seed)
        self._clock = clock

    async def start(self) -> None:
        """Start the engine."""
        await self._engine.start()

    def describe(self) -> EngineDescription:
        """Describe the engine."""
        return self._engine.describe()

    def load(self) -> EngineLoad:
        """Return the engine's load."""
        return self._engine.load()

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        """Let the engine encode: nothing is handed over."""
        return await self._engine.encode(request_id, work, clock)

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        """Let the engine generate, unless a handoff is lost."""
        for what, giver in self._handoffs(work):
            if self._random.random() < self._share():
                raise EngineError(
                    FailureKind.HANDOFF_LOST,
                    f"{what} of worker {giver} was lost on purpose (epd fault lossy-handoff)",
                )
        return await self._engine.generate(request_id, work, emit, clock, priority)

    async def release(self, kv_identifiers: Sequence[str], ec_identifiers: Sequence[str]) -> None:
        """Let the engine free what nobody will take."""
        await self._engine.release(kv_identifiers, ec_identifiers)

    async def watch(self) -> str:
        """Return when the engine dies."""
        return await self._engine.watch()

    async def close(self) -> None:
        """Stop the engine."""
        await self._engine.close()

    def _handoffs(self, work: Generate) -> Iterator[tuple[str, str]]:
        """Yield what a generation takes from other workers, and from whom."""
        if work.kv is not None and work.kv.worker_id != self._name:
            yield "KV", work.kv.worker_id
        for image in work.images:
            if image.ec is not None and not image.local and image.ec.worker_id != self._name:
                yield "EC", image.ec.worker_id

    def _share(self) -> float:
        try:
            order = LossyHandoff.read(self._orders.read_text(encoding="utf-8"))
        except OSError:
            return 0.0
        return order.share if order is not None and self._clock() < order.until_s else 0.0
