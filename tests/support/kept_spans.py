"""Spans of our programs, kept as OpenTelemetry's own objects, which say more of themselves."""

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from epd.tracing import Span, Tracing


class KeptSpans:
    """Keeps spans that have ended, the last one last."""

    def __init__(self) -> None:
        self._ended: list[Span] = []

    def on_end(self, span: Span) -> None:
        """Take a span."""
        self._ended.append(span)

    def shutdown(self) -> None:
        """Have nothing to send."""

    def get_finished_spans(self) -> tuple[ReadableSpan, ...]:
        """Return what has ended."""
        return tuple(map(readable, self._ended))

    def tracing(self) -> Tracing:
        """Return a tracing whose spans come here, all of them."""
        return Tracing(TracerProvider(), self, close_s=1.0)


def readable(span: Span) -> ReadableSpan:
    """Return a span as OpenTelemetry has it."""
    flags = TraceFlags(TraceFlags.SAMPLED if span.sampled else TraceFlags.DEFAULT)
    trace_id = int(span.trace_id, 16)
    parent = None
    if span.parent_id:
        parent = SpanContext(trace_id, int(span.parent_id, 16), span.is_far, flags)
    return ReadableSpan(
        span.name,
        SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=flags),
        parent,
        attributes=span.attributes,
        kind=SpanKind(span.kind - 1),
        status=Status() if span.failure is None else Status(StatusCode.ERROR, span.failure),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("epd"),
    )
