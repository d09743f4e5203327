"""Spans on their way to a collector: OTLP over gRPC.

OpenTelemetry's exporter does it all; what it is given here are spans of ours.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, SpanFlags, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from epd.tracing.spans import Span, Value

_SCOPE = InstrumentationScope(name="epd")
_NEAR = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_FAR = _NEAR | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class SpanExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, for spans of ours. Its settings come from the environment."""

    def __init__(self, resource: Resource) -> None:
        """Send spans of the program that `resource` names."""
        super().__init__()
        told = {key: str(value) for key, value in resource.attributes.items()}
        self._resource = ResourceMessage(attributes=map(_attribute, told, told.values()))

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        spans = map(message_of, cast(Sequence[Span], data))
        group = ResourceSpans(
            resource=self._resource, scope_spans=[ScopeSpans(scope=_SCOPE, spans=spans)]
        )
        return ExportTraceServiceRequest(resource_spans=[group])


def message_of(span: Span) -> SpanMessage:
    """Return a span that has ended as OTLP has it."""
    message = SpanMessage(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=cast("SpanMessage.SpanKind.ValueType", span.kind.value),
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=map(_attribute, span.attributes, span.attributes.values()),
        flags=_FAR if span.is_far else _NEAR,
    )
    if span.failure is not None:
        message.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span.failure))
    return message


@lru_cache(maxsize=4096, typed=True)  # nearly all are seen again, and to make one takes 2 us
def _attribute(key: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        told = AnyValue(string_value=value)
    elif isinstance(value, bool):
        told = AnyValue(bool_value=value)
    elif isinstance(value, int):
        told = AnyValue(int_value=value)
    else:
        told = AnyValue(double_value=value)
    return KeyValue(key=key, value=told)
