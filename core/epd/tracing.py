"""Traces by OpenTelemetry: off unless the environment names a collector, and free while off.

`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` turns them on; the other
variables of OpenTelemetry's SDK (`OTEL_TRACES_SAMPLER`, headers, certificates) mean what they mean
everywhere. Between programs a span is named by its W3C `traceparent`.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from epd.vocabulary import Component

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

logger = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S: Final = 2.0
"""What a program that ends grants its last spans."""

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Value = str | int | float | bool


def valid_traceparent(text: str) -> str:
    """Return a `traceparent` as it came, or nothing if it is none."""
    return text if _TRACEPARENT.fullmatch(text) else ""


def trace_id_of(traceparent: str) -> str:
    """Return the trace's id in a valid `traceparent`, 32 hexadecimal digits."""
    return traceparent[3:35]


def traceparent_of(span: "Span") -> str:
    """Return the name of a span by which another program can go on."""
    told = span.context
    return f"00-{told.trace_id:032x}-{told.span_id:016x}-{int(told.trace_flags):02x}"


class Span:
    """One span while it is open: a few fields, and no lock, for it has one owner.

    OpenTelemetry's own costs three times as much, and a request has four of them.

    Attributes:
        context: Its ids, and whether anybody keeps it.
    """

    __slots__ = (
        "_attributes",
        "_failure",
        "_kind",
        "_name",
        "_parent",
        "_start_ns",
        "_tracing",
        "context",
    )

    def __init__(
        self,
        tracing: "Tracing",
        name: str,
        context: "SpanContext",
        parent: "SpanContext | None",
        kind: "SpanKind",
        start_ns: int,
        attributes: Mapping[str, Value] | None,
    ) -> None:
        """Open it; see `Tracing.begin`."""
        self._tracing = tracing
        self._name = name
        self.context = context
        self._parent = parent
        self._kind = kind
        self._start_ns = start_ns
        self._attributes = dict(attributes) if attributes else {}
        self._failure: str | None = None

    def is_recording(self) -> bool:
        """Tell whether anybody keeps it."""
        return self.context.trace_flags.sampled

    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        """Say more of it."""
        self._attributes.update(attributes)

    def fail(self, reason: str) -> None:
        """Note that what it is about went wrong; one word or two, never a client's text."""
        self._failure = reason

    def end(self, at_ns: int | None = None) -> None:
        """End it, once, and send it if anybody keeps it.

        Args:
            at_ns: Unix time of its end; None: now.
        """
        if self.context.trace_flags.sampled:
            self._tracing.send(
                self._name,
                self.context,
                self._parent,
                self._kind,
                self._start_ns,
                time.time_ns() if at_ns is None else at_ns,
                self._attributes,
                self._failure,
            )


class Tracing:
    """Makes the spans of one program and sends them away, in a thread of its own.

    Who samples, ids, the form and the way of spans are OpenTelemetry's; only open spans are ours.
    """

    def __init__(self, provider: "TracerProvider", processor: "SpanProcessor") -> None:
        """Sample as `provider` does, and give what has ended to `processor`, closed by `close`."""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.sampling import Decision
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace.propagation import set_span_in_context

        self._processor = processor
        self._resource = provider.resource
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        self._scope = InstrumentationScope("epd")
        self._trace = trace
        self._set_span = set_span_in_context
        self._readable = ReadableSpan
        self._kept = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        self._dropped = trace.TraceFlags(trace.TraceFlags.DEFAULT)
        self._fine = trace.Status()
        self._record_and_sample = Decision.RECORD_AND_SAMPLE

    def begin(
        self,
        name: str,
        parent: str | Span = "",
        *,
        start_ns: int | None = None,
        outward: bool | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> Span:
        """Begin a span; whoever begins it ends it.

        Args:
            name: Few of them; what differs stands in the attributes.
            parent: A span of this program, or the valid `traceparent` of another's; empty: this
                begins a trace.
            start_ns: Unix time at which it began; None: now.
            outward: True for a call on another program, False for one that is served, None within.
            attributes: What is known already.
        """
        kinds = self._trace.SpanKind
        kind = kinds.INTERNAL if outward is None else kinds.CLIENT if outward else kinds.SERVER
        if isinstance(parent, Span):
            above: SpanContext | None = parent.context
            trace_id, flags = parent.context.trace_id, parent.context.trace_flags
        else:
            above = self._far(parent) if parent else None
            trace_id = above.trace_id if above else self._ids.generate_trace_id()
            flags = self._sampled(name, trace_id, above, kind, attributes)
        own = self._trace.SpanContext(
            trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=flags
        )
        start_ns = time.time_ns() if start_ns is None else start_ns
        return Span(self, name, own, above, kind, start_ns, attributes)

    def send(
        self,
        name: str,
        context: "SpanContext",
        parent: "SpanContext | None",
        kind: "SpanKind",
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, Value],
        failure: str | None,
    ) -> None:
        """Give a span that has ended to the exporter; `Span.end` does so."""
        status = self._fine
        if failure is not None:
            status = self._trace.Status(self._trace.StatusCode.ERROR, failure)
        self._processor.on_end(
            self._readable(
                name, context, parent, self._resource, attributes,
                kind=kind, status=status, start_time=start_ns, end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )  # fmt: skip

    def close(self) -> None:
        """Send what is left, and stop; what a slow collector has not taken by then is lost."""
        # The exporter's own limits are longer than a program may take to end.
        last = threading.Thread(target=self._processor.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_S)

    def _far(self, parent: str) -> "SpanContext":
        """Return what a `traceparent` names: a span of another program."""
        return self._trace.SpanContext(
            int(parent[3:35], 16),
            int(parent[36:52], 16),
            is_remote=True,
            trace_flags=self._trace.TraceFlags(int(parent[53:55], 16)),
        )

    def _sampled(
        self,
        name: str,
        trace_id: int,
        above: "SpanContext | None",
        kind: "SpanKind",
        attributes: Mapping[str, Value] | None,
    ) -> "TraceFlags":
        """Ask the sampler whether anybody keeps a trace that comes in, or begins here."""
        context = self._set_span(self._trace.NonRecordingSpan(above)) if above else None
        asked = self._sampler.should_sample(context, trace_id, name, kind, attributes)
        kept = asked.decision is self._record_and_sample
        return self._kept if kept else self._dropped


def collector(environment: Mapping[str, str] = os.environ) -> str:
    """Return where spans go, as the environment says; empty: nowhere."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    return next(filter(None, map(environment.get, ENDPOINTS)), "")


def start_tracing(
    component: Component, instance: str, environment: Mapping[str, str] = os.environ
) -> Tracing | None:
    """Return the tracing of this program, as the environment asks for it; None: it does not.

    Args:
        component: Which program.
        instance: Which one of its kind: a pod's name.
        environment: The process environment.
    """
    if not collector(environment):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("no traces: %s; install opentelemetry-exporter-otlp-proto-grpc", error.name)
        return None

    class Sender(Resource):
        """The exporter hashes it for each span, which takes longer than the span's own encoding."""

        def __hash__(self) -> int:
            return id(self)

    names = {"service.name": f"epd-{component}", "service.instance.id": instance}
    resource = Sender(Resource.create(names).attributes)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    return Tracing(provider, BatchSpanProcessor(OTLPSpanExporter()))
