"""The span of one piece of work on this worker, and of the handoffs that it waited for."""

from collections.abc import Iterator
from time import time_ns
from typing import Final

from epd.tracing import Tracing
from epd.wire.messages import EcHandle, Encode, Generate, KvHandle, Phase, Submit
from epd_worker.engine import TRACEPARENT

_NAMES: Final = {
    Phase.WHOLE: "serve prefill+decode",
    Phase.PREFILL: "serve prefill",
    Phase.DECODE: "serve decode",
}


class WorkSpan:
    """One piece of work, from its begin to its end on this worker."""

    __slots__ = ("_began_ns", "_span", "_tracing", "_work")

    def __init__(self, tracing: Tracing, submit: Submit) -> None:
        """Begin the span, below the one that the gateway named."""
        work = submit.work
        name = "serve encode" if isinstance(work, Encode) else _NAMES[work.phase]
        self._tracing = tracing
        self._work = work
        self._began_ns = time_ns()
        self._span = tracing.begin(
            name,
            submit.traceparent,
            start_ns=self._began_ns,
            outward=False,
            attributes={"epd.request": submit.request_id},
        )
        TRACEPARENT.set(self._span.traceparent)  # each piece of work is a task of its own

    def end(self, handoff_us: int, failure: str = "") -> None:
        """End it.

        Args:
            handoff_us: What it waited for handoffs; they come first, before the engine begins.
            failure: Why it failed; empty if it did not.
        """
        for kind, handle in _taken(self._work):
            handoff = self._tracing.begin(
                f"{kind} handoff",
                self._span,
                start_ns=self._began_ns,
                attributes={
                    "epd.handoff.kind": kind,
                    "epd.handoff.from": handle.worker_id,
                    "epd.handoff.bytes": handle.size_bytes,
                },
            )
            handoff.end(self._began_ns + 1000 * handoff_us)
        if failure:
            self._span.fail(failure)
        self._span.end()


def _taken(work: Encode | Generate) -> Iterator[tuple[str, EcHandle | KvHandle]]:
    """Yield what a piece of work takes from other workers."""
    if isinstance(work, Encode):
        return
    if work.phase is Phase.DECODE:
        if work.kv is not None:
            yield "kv", work.kv
        return
    for image in work.images:
        if image.ec is not None and not image.local:
            yield "ec", image.ec
