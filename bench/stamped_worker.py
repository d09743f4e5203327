"""A worker with a simulated engine that also writes down how long its engine took.

    python bench/stamped_worker.py STAMPS [options of epd-worker]

For every stage of every request one line goes to the file STAMPS: the request's id, the stage, and
the microseconds from the engine's call to the embedding or the first token. What a client waited
beyond the sum of these is the gateway's and the wire's, to the request.
"""

import os
import sys
import time

from epd.wire.messages import Completed, EcHandle, Encode, Generate, Phase, Prefilled
from epd_worker.engine import Emit, StageClock, simulated


class StampedEngine(simulated.SimulatedEngine):
    """The simulated engine with a stop-watch."""

    stamps = -1

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        """Encode, and write down how long it took."""
        start_s = time.monotonic()
        handle = await super().encode(request_id, work, clock)
        self._stamp(request_id, "encode", start_s)
        return handle

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        """Generate, and write down how long the first token took, unless it is a decode."""
        if work.phase is Phase.DECODE:
            return await super().generate(request_id, work, emit, clock, priority)
        start_s = time.monotonic()
        waiting = True

        def stamp(payload: bytes, token_ids: bytes) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self._stamp(request_id, "prefill", start_s)
            emit(payload, token_ids)

        return await super().generate(request_id, work, stamp, clock, priority)

    def _stamp(self, request_id: str, stage: str, start_s: float) -> None:
        took_us = round((time.monotonic() - start_s) * 1e6)
        os.write(self.stamps, f"{request_id} {stage} {took_us}\n".encode())


def main() -> int:
    """Run the worker."""
    from epd_worker.__main__ import main as run_worker

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    StampedEngine.stamps = os.open(sys.argv[1], flags, 0o600)
    simulated.SimulatedEngine = StampedEngine  # type: ignore[misc]
    return run_worker(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
