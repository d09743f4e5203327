"""All calls of this gateway on one worker, over one bidirectional gRPC call.

What came down for all calls in one engine step arrives as one frame; its slices go to the calls'
sinks from a plain loop: no task, queue, JSON or await per token. What goes up within one turn of
the event loop leaves as one frame, and so does what gathers while the one before is being written.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import grpc.aio

from epd.vocabulary import Stage
from epd.wire.messages import (
    EcHandle,
    Encode,
    GatewayFrame,
    Generate,
    Outcome,
    Prefilled,
    Submit,
    WorkerFrame,
)
from epd_gateway.calls import Call, Reason, Take, drop_event
from epd_gateway.http_messages import log_defect

_MAX_FRAME_BYTES: Final = 32 << 20
_EVENTS_AT_ONCE: Final = 32
_TOKEN_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class TrafficTotals:
    """Frames, token events, and their bytes, received from workers."""

    frames: int = 0
    events: int = 0
    event_bytes: int = 0

    def plus(self, other: "TrafficTotals") -> "TrafficTotals":
        """Return the sums."""
        return TrafficTotals(
            self.frames + other.frames,
            self.events + other.events,
            self.event_bytes + other.event_bytes,
        )


class Session:
    """The calls in flight on one worker.

    Attributes:
        worker: Name of the pod.
        heard_s: Monotonic time at which the last frame arrived.
        frames_total: Frames received.
        events_total: Token events received.
        event_bytes_total: Bytes of their payloads.
    """

    def __init__(
        self,
        rpc: Any,
        worker: str,
        on_end: Callable[[Call], None],
        *,
        idle_s: float,
        release_delay_s: float,
    ) -> None:
        """Take over a session that was just opened.

        Args:
            rpc: The bidirectional gRPC call.
            worker: Name of the pod.
            on_end: Called once for each call that ends, however it does.
            idle_s: Longest pause between two events of one call.
            release_delay_s: How long releases may wait for a frame to travel with.
        """
        self.worker = worker
        self.frames_total = 0
        self.events_total = 0
        self.event_bytes_total = 0
        self._rpc = rpc
        self._on_end = on_end
        self._idle_s = idle_s
        self._release_delay_s = release_delay_s
        self._loop = asyncio.get_running_loop()
        self.heard_s = monotonic()
        self._calls: dict[int, Call] = {}
        self._last_stream = 0
        self._submits: deque[Submit] = deque()
        self._cancels: list[int] = []
        self._released_kv: list[str] = []
        self._released_ec: list[str] = []
        self._release_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def calls(self) -> Iterable[Call]:
        """The calls in flight."""
        return self._calls.values()

    @property
    def traffic(self) -> TrafficTotals:
        """What has come so far."""
        return TrafficTotals(self.frames_total, self.events_total, self.event_bytes_total)

    @property
    def in_flight(self) -> int:
        """Number of calls in flight."""
        return len(self._calls)

    def submit(
        self,
        work: Encode | Generate,
        stage: Stage,
        request_id: str,
        *,
        first_s: float,
        take: Take = drop_event,
        limit_s: float = math.inf,
        on_completed: Callable[[Outcome], None] | None = None,
        traceparent: str = "",
        priority: int = 0,
    ) -> Call:
        """Start a call.

        Args:
            work: What the worker shall do.
            stage: The stage that it begins with.
            request_id: For the worker's log.
            first_s: How long until the first event, or the outcome if there are no events.
            take: Where events go.
            limit_s: Monotonic time by which the call must be done.
            on_completed: See `Call`.
            traceparent: W3C name of the span that the work belongs to; empty: none.
            priority: Place in the worker's queue; lower goes first.
        """
        self._last_stream += 1
        now_s = monotonic()
        call = Call(
            self._last_stream,
            stage,
            self.worker,
            take,
            self._loop.create_future(),
            started_s=now_s,
            expires_s=now_s + first_s,
            limit_s=limit_s,
            on_completed=on_completed,
        )
        self._calls[call.stream] = call
        self._submits.append(Submit(call.stream, request_id, work, priority, traceparent))
        self._wake.set()
        return call

    def cancel(self, call: Call) -> None:
        """Stop a call; its outcome will not come. Harmless if it has ended."""
        if self._calls.get(call.stream) is not call:
            return
        del self._calls[call.stream]
        self._on_end(call)
        if self._submits and self._submits[0].stream <= call.stream:  # it has not gone up yet
            self._submits = deque(s for s in self._submits if s.stream != call.stream)
            return
        self._cancels.append(call.stream)
        self._wake.set()

    def release(self, kv: Iterable[str] = (), ec: Iterable[str] = ()) -> None:
        """Tell the worker that nobody will take these handles."""
        self._released_kv.extend(kv)
        self._released_ec.extend(ec)
        if self._release_timer is None and not self._closed:
            self._release_timer = self._loop.call_later(self._release_delay_s, self._wake.set)

    def expire(self, now_s: float) -> list[Call]:
        """Fail and cancel the calls that are out of time, and return them."""
        late = [c for c in self._calls.values() if c.expires_s <= now_s or c.limit_s <= now_s]
        for call in late:
            self.cancel(call)
            call.fail(Reason.DEADLINE, f"{call.stage} did not finish in time on {self.worker}")
        return late

    def fail_all(self, reason: Reason, message: str) -> None:
        """Fail every call in flight."""
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            self._on_end(call)
            call.fail(reason, message)

    async def run(self) -> None:
        """Carry frames both ways until the worker hangs up.

        Raises:
            grpc.aio.AioRpcError: The connection broke.
        """
        writer = asyncio.ensure_future(self._write_frames())
        try:
            while True:
                frame = await self._rpc.read()
                if frame is grpc.aio.EOF:
                    return
                await self.on_frame(frame)
        finally:
            self._closed = True
            if self._release_timer is not None:
                self._release_timer.cancel()
            self._rpc.cancel()
            writer.cancel()
            # What broke the connection for the writer broke it for the reader, which tells.
            await asyncio.gather(writer, return_exceptions=True)

    async def on_frame(self, frame: WorkerFrame) -> None:
        """Hand an engine step's events, then its outcomes, to their calls.

        A step of hundreds of streams takes milliseconds to pass on: what else has come meanwhile,
        such as a new request or another worker's first token, does not wait for all of it.
        """
        self.heard_s = monotonic()
        self.frames_total += 1
        if frame.streams:
            await self._deliver(frame, self.heard_s + self._idle_s)
        for outcome in frame.outcomes:
            call = self._calls.pop(outcome.stream, None)
            if call is None:
                self._disown(outcome)
            else:
                self._on_end(call)
                call.finish(outcome)

    async def _deliver(self, frame: WorkerFrame, expires_s: float) -> None:
        payload, token_ids = frame.payload, frame.token_ids
        self.events_total += len(frame.streams)
        self.event_bytes_total += len(payload)
        find = self._calls.get
        start = first = 0
        events = zip(frame.streams, frame.sizes, frame.token_counts, strict=True)
        for number, (stream, size, count) in enumerate(events, 1):
            end = start + size
            last = first + _TOKEN_ID_BYTES * count
            call = find(stream)
            if call is not None:
                call.expires_s = expires_s
                try:
                    call.take(payload[start:end], token_ids[first:last])
                except Exception as error:
                    self._drop_broken(call, error)
            start = end
            first = last
            if not number % _EVENTS_AT_ONCE:
                await asyncio.sleep(0)

    def _drop_broken(self, call: Call, error: Exception) -> None:
        """End one call whose sink failed; the others of the frame must not suffer."""
        log_defect(f"an event of {self.worker} could not be taken", error)
        self.cancel(call)
        call.fail(Reason.INTERNAL, "the gateway could not pass on the answer")

    def _disown(self, outcome: Outcome) -> None:
        """Release what a call produced that was cancelled meanwhile."""
        result = outcome.result
        if isinstance(result, EcHandle):
            self.release(ec=(result.identifier,))
        elif isinstance(result, Prefilled):
            self.release(kv=(result.kv.identifier,))

    async def _write_frames(self) -> None:
        while True:
            await self._wake.wait()
            frame = self._next_frame()
            await self._rpc.write(frame)

    def _next_frame(self) -> GatewayFrame:
        """Take what is waiting to go up, large submits in frames of their own size."""
        submits: list[Submit] = []
        size = 0
        while self._submits and size < _MAX_FRAME_BYTES:
            submit = self._submits.popleft()
            submits.append(submit)
            size += _content_bytes(submit)
        frame = GatewayFrame(submits, self._cancels, self._released_kv, self._released_ec)
        self._cancels, self._released_kv, self._released_ec = [], [], []
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None
        if not self._submits:
            self._wake.clear()
        return frame


def _content_bytes(submit: Submit) -> int:
    work = submit.work
    if isinstance(work, Encode):
        return len(work.image.content)
    return len(work.body) + sum(len(image.content) for image in work.images)
