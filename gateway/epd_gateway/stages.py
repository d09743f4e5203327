"""The stages of a request as calls on workers: encode an image, run a phase of the generation.

A stage here is one attempt on one pod; whether to try again, and where, is `pipeline`'s business.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from epd.vocabulary import Stage
from epd.wire.messages import (
    Completed,
    EcHandle,
    Encode,
    Generate,
    Image,
    KvHandle,
    Outcome,
    Phase,
    Prefilled,
)
from epd_gateway.calls import Call, CallFailed
from epd_gateway.context import DistinctImage, Embedding, RequestContext
from epd_gateway.journal import StageRecord
from epd_gateway.metrics import GatewayMetrics
from epd_gateway.settings import Deadlines
from epd_gateway.workers import Worker

_FIRST_STAGE: Final = {
    Phase.WHOLE: Stage.PREFILL,
    Phase.PREFILL: Stage.PREFILL,
    Phase.DECODE: Stage.DECODE,
}


class StageRun:
    """One attempt at one stage, under way."""

    __slots__ = ("_end", "_metrics", "_role", "_stage_started_s", "call", "record", "worker")

    def __init__(
        self,
        worker: Worker,
        call: Call,
        record: StageRecord,
        metrics: GatewayMetrics,
        on_end: Callable[[StageRecord], None] | None = None,
    ) -> None:
        """Follow `call` on `worker`, write `record`, and tell `on_end` of it in the end."""
        self._end = on_end
        self.worker = worker
        self.call = call
        self.record = record
        self._metrics = metrics
        self._role = worker.role
        self._stage_started_s = record.started_s

    def reach_decode(self) -> None:
        """Note that the first token came, where one call does both stages."""
        now_s = monotonic()
        self._observe_duration(now_s)
        self._stage_started_s = self.record.decode_started_s = now_s
        self.worker.advance(self.call, Stage.DECODE)

    async def outcome(self) -> Outcome:
        """Wait for the end.

        Raises:
            CallFailed: The stage failed.
        """
        record, metrics = self.record, self._metrics
        try:
            outcome = await self.call.outcome()
            record.service_us = outcome.service_us
            record.handoff_us = outcome.handoff_us
        except CallFailed as failure:
            record.failure = failure.reason
            metrics.failures[failure.stage, failure.reason].inc()
            raise
        except asyncio.CancelledError:
            record.failure = "cancelled"
            raise
        finally:
            now_s = record.ended_s = monotonic()
            if self._end is not None:
                self._end(record)
        self._observe_duration(now_s)
        outside_s = now_s - record.started_s - outcome.service_us / 1e6
        metrics.stage_outside[record.stage].observe(max(0.0, outside_s))
        if outcome.handoff_us:
            kind = "kv" if record.phase is Phase.DECODE else "ec"
            metrics.handoff[kind].observe(outcome.handoff_us / 1e6)
        return outcome

    def _observe_duration(self, now_s: float) -> None:
        duration = self._metrics.stage_duration[self.call.stage, self._role]
        duration.observe(now_s - self._stage_started_s)


class Stages:
    """Starts stages. One for the whole gateway."""

    def __init__(self, deadlines: Deadlines, metrics: GatewayMetrics) -> None:
        """Use these deadlines, count in these metrics."""
        self._deadlines = deadlines
        self._metrics = metrics

    def encode(
        self, context: RequestContext, image: DistinctImage, worker: Worker, *, overflow: bool
    ) -> StageRun:
        """Start encoding an image; its embedding is the image's as soon as the outcome is here.

        Raises:
            CallFailed: There is no connection.
        """
        source = image.image
        incarnation = worker.description.incarnation if worker.description else ""

        def adopt(outcome: Outcome) -> None:
            if isinstance(outcome.result, EcHandle):
                image.keep(Embedding(outcome.result, worker, incarnation))
                self._metrics.image_tokens.inc(outcome.result.tokens)

        attempt = 1 + len(image.failed_on)
        span = _begin_span(context, Stage.ENCODE, worker, attempt, overflow=overflow)
        call = worker.submit(
            Encode(Image(source.data, source.media_type), context.envelope.processor_options),
            Stage.ENCODE,
            context.trace_id,
            priority=_priority(context),
            first_s=self._deadlines.encode_s,
            limit_s=context.limit_s,
            on_completed=adopt,
            traceparent=span,
        )
        return self._follow(context, worker, call, None, span, attempt=attempt, overflow=overflow)

    def generate(
        self,
        context: RequestContext,
        worker: Worker,
        phase: Phase,
        images: tuple[Image, ...],
        *,
        overflow: bool = False,
        kv: KvHandle | None = None,
        rendered: bytes = b"",
    ) -> StageRun:
        """Start a phase of the generation; its events go to the request's answer.

        Raises:
            CallFailed: There is no connection.
        """
        envelope, answer = context.envelope, context.answer
        work = Generate(
            phase=phase,
            api=envelope.api,
            body=envelope.body,
            images=images,
            stream=envelope.stream,
            http_chunks=envelope.stream,
            response_id=context.record.response_id,
            created_s=context.record.created_s,
            kv=kv,
            rendered=rendered,
            emitted_token_ids=bytes(answer.emitted) if phase is Phase.DECODE else b"",
        )

        def settle(outcome: Outcome) -> None:
            if isinstance(outcome.result, Completed):
                answer.complete(outcome)
            elif isinstance(outcome.result, Prefilled):
                context.kv = (worker, outcome.result.kv)

        attempt = 1 + context.failures + context.replays
        name = "prefill+decode" if phase is Phase.WHOLE else _FIRST_STAGE[phase]
        span = _begin_span(
            context,
            name,
            worker,
            attempt,
            overflow=overflow,
            replay=phase is Phase.DECODE and kv is None,
        )
        call = worker.submit(
            work,
            _FIRST_STAGE[phase],
            context.trace_id,
            priority=_priority(context),
            first_s=self._first_event_s(context, phase, kv),
            take=answer.take,
            limit_s=context.limit_s,
            on_completed=settle,
            traceparent=span,
        )
        run = self._follow(context, worker, call, phase, span, attempt=attempt, overflow=overflow)
        answer.attach(call, self._when_first_token_comes(context, run, phase))
        return run

    def _when_first_token_comes(
        self, context: RequestContext, run: StageRun, phase: Phase
    ) -> Callable[[], None]:
        if phase is not Phase.WHOLE:
            return _nothing

        def pass_to_decode() -> None:
            run.reach_decode()
            context.release_embeddings()

        return pass_to_decode

    def _first_event_s(self, context: RequestContext, phase: Phase, kv: KvHandle | None) -> float:
        """Return how long a phase may take until its first event."""
        deadlines = self._deadlines
        if kv is not None:
            return deadlines.decode_idle_s
        if context.answer.first_token_s is not None:
            return deadlines.prefill_s
        left_s = context.began_s + deadlines.first_token_s - monotonic()
        return min(deadlines.prefill_s, left_s)

    def _follow(
        self,
        context: RequestContext,
        worker: Worker,
        call: Call,
        phase: Phase | None,
        span: str,
        *,
        attempt: int,
        overflow: bool,
    ) -> StageRun:
        context.calls.append((worker, call))
        record = StageRecord(
            call.stage, phase, worker.name, call.started_s, attempt=attempt, overflow=overflow
        )
        context.record.stages.append(record)
        self._metrics.placements[call.stage].inc()
        if overflow:
            self._metrics.overflows[call.stage].inc()
        trace = context.trace
        on_end = None if trace is None else partial(trace.end, span)
        return StageRun(worker, call, record, self._metrics, on_end)


def _begin_span(
    context: RequestContext,
    name: str,
    worker: Worker,
    attempt: int,
    *,
    overflow: bool,
    replay: bool = False,
) -> str:
    """Return what a call's worker gets as `traceparent`: a span of its own, where there are any."""
    if context.trace is None:
        return context.traceparent
    return context.trace.begin(name, worker.name, attempt=attempt, overflow=overflow, replay=replay)


def _priority(context: RequestContext) -> int:
    """Return the place in a worker's queue; lower goes first."""
    return int(context.envelope.offline)


def wire_images(
    context: RequestContext, worker: Worker, *, fused: bool, pixels: bool = True
) -> tuple[Image, ...]:
    """Return the request's images as `worker` shall get them.

    Args:
        context: The request.
        worker: Who gets them.
        fused: `worker` encodes them itself.
        pixels: Send pixels where the model needs them beside the embedding.
    """
    images = []
    for image in context.images:
        source, embedding = image.image, image.embedding
        if fused or embedding is None:
            images.append(Image(source.data, source.media_type))
            continue
        description = worker.description
        enough = description is not None and description.pixels_once and embedding.handle.metadata
        images.append(
            Image(
                source.data if pixels and not enough else b"",
                source.media_type,
                embedding.handle,
                embedding.worker is worker,
            )
        )
    return tuple(images)


def _nothing() -> None:
    """Stand in for a callback."""
