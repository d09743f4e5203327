"""Traces by OpenTelemetry: off unless the environment names a collector, and free while off.

`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` turns them on; the other
variables of OpenTelemetry's SDK (`OTEL_TRACES_SAMPLER`, headers, certificates) mean what they mean
everywhere. Between programs a span is named by its W3C `traceparent`.
"""

import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from epd.vocabulary import Component

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

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
    told = span.get_span_context()
    return f"00-{told.trace_id:032x}-{told.span_id:016x}-{int(told.trace_flags):02x}"


class Tracing:
    """Makes the spans of one program and sends them away, in a thread of its own."""

    def __init__(self, provider: "TracerProvider") -> None:
        """Make spans of `provider`, which is shut down by `close`."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation import set_span_in_context

        self._provider = provider
        self._tracer = provider.get_tracer("epd")
        self._trace = trace
        self._set_span = set_span_in_context

    def begin(
        self,
        name: str,
        parent: "str | Span" = "",
        *,
        start_ns: int | None = None,
        outward: bool | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> "Span":
        """Begin a span; whoever begins it ends it.

        Args:
            name: Few of them; what differs stands in the attributes.
            parent: A span of this program, or the valid `traceparent` of another's; empty: this
                begins a trace.
            start_ns: Unix time at which it began; None: now.
            outward: True for a call on another program, False for one that is served, None within.
            attributes: What is known already.
        """
        trace = self._trace
        context = None
        if not isinstance(parent, str):
            context = self._set_span(parent)
        elif parent:
            far = trace.SpanContext(
                int(parent[3:35], 16),
                int(parent[36:52], 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(int(parent[53:55], 16)),
            )
            context = self._set_span(trace.NonRecordingSpan(far))
        kinds = trace.SpanKind
        kind = kinds.INTERNAL if outward is None else kinds.CLIENT if outward else kinds.SERVER
        return self._tracer.start_span(
            name, context, kind=kind, attributes=attributes, start_time=start_ns
        )

    def fail(self, span: "Span", reason: str) -> None:
        """Note that what a span is about went wrong; one word or two, never a client's text."""
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, reason))

    def close(self) -> None:
        """Send what is left, and stop; what a slow collector has not taken by then is lost."""
        # The exporter's own limits are longer than a program may take to end.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_S)


def start_tracing(
    component: Component, instance: str, environment: Mapping[str, str] = os.environ
) -> Tracing | None:
    """Return the tracing of this program, as the environment asks for it; None: it does not.

    Args:
        component: Which program.
        instance: Which one of its kind: a pod's name.
        environment: The process environment.
    """
    if not any(environment.get(name) for name in ENDPOINTS):
        return None
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("no traces: %s; install opentelemetry-exporter-otlp-proto-grpc", error.name)
        return None
    resource = Resource.create(
        {"service.name": f"epd-{component}", "service.instance.id": instance}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
