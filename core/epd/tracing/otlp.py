"""Spans on their way to a collector: OTLP over gRPC.

OpenTelemetry's exporter does it all, but for the writing of a span: its own takes twenty
microseconds of each, under the lock that a program's requests need; this one takes two.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from epd.tracing.spans import Kind, Span, Value

# Field numbers and wire types of opentelemetry/proto/trace/v1/trace.proto.
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = b"\x0a", b"\x0a", b"\x12", b"\x12"
_SCOPE: Final = b"\x0a\x05\x0a\x03epd"
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_NAME, _KIND, _ATTRIBUTE, _STATUS = b"\x2a", b"\x30", b"\x4a", b"\x7a"
_IDS: Final = struct.Struct("2s16s2s8s").pack
_TIMES: Final = struct.Struct("<BQBQ").pack
_START, _END = 0x39, 0x41
_MESSAGE, _ERROR = b"\x12", b"\x18\x02"
_KEY, _VALUE, _TEXT = b"\x0a", b"\x12", b"\x0a"
_FLAGS: Final = b"\x85\x01"
_NEAR, _FAR = _FLAGS + (0x100).to_bytes(4, "little"), _FLAGS + (0x300).to_bytes(4, "little")
_DOUBLE: Final = struct.Struct("<d").pack

ONCE: Final = frozenset({"epd.request_id", "epd.response_id", "epd.request"})
"""Attributes that no other span has the value of: not worth remembering."""


class SpanExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, for spans of ours. Its settings come from the environment."""

    def __init__(self, resource: Resource) -> None:
        """Send spans of the program that `resource` names."""
        super().__init__()
        attributes = [
            KeyValue(key=key, value=AnyValue(string_value=str(value)))
            for key, value in resource.attributes.items()
        ]
        told = ResourceMessage(attributes=attributes).SerializeToString()
        self._resource = _field(_RESOURCE, told)

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        spans = b"".join(map(written, cast(Sequence[Span], data)))
        group = self._resource + _field(_SCOPE_SPANS, _SCOPE + spans)
        return ExportTraceServiceRequest.FromString(_field(_RESOURCE_SPANS, group))


def written(span: Span) -> bytes:
    """Return a span that has ended as a field of `ScopeSpans`."""
    parts = [
        _IDS(_TRACE_ID, bytes.fromhex(span.trace_id), _SPAN_ID, bytes.fromhex(span.span_id)),
        _TIMES(_START, span.start_ns, _END, span.end_ns),
        _title(span.name, span.kind, span.is_far),
    ]
    if span.parent_id:
        parts.append(_PARENT_ID + bytes.fromhex(span.parent_id))
    for key, value in span.attributes.items():
        if value.__class__ is float:
            parts.append(_before_a_double(key) + _DOUBLE(value))
        elif key in ONCE:
            parts.append(_written_attribute(key, value))
        else:
            parts.append(_attribute(key, value))
    if span.failure is not None:
        parts.append(_field(_STATUS, _field(_MESSAGE, span.failure.encode()) + _ERROR))
    return _field(_SPANS, b"".join(parts))


@lru_cache(maxsize=256)
def _title(name: str, kind: Kind, is_far: bool) -> bytes:
    """Return what spans of one sort have in common."""
    return _field(_NAME, name.encode()) + _KIND + _size(kind) + (_FAR if is_far else _NEAR)


@lru_cache(maxsize=4096, typed=True)
def _attribute(key: str, value: Value) -> bytes:
    """Return an attribute as a field of a span; nearly all are seen again."""
    return _written_attribute(key, value)


def _written_attribute(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        told = _field(_TEXT, value.encode())
    elif isinstance(value, bool):
        told = AnyValue(bool_value=value).SerializeToString()
    elif isinstance(value, int):
        told = AnyValue(int_value=value).SerializeToString()
    else:
        told = AnyValue(double_value=value).SerializeToString()
    return _field(_ATTRIBUTE, _key(key) + _field(_VALUE, told))


@lru_cache(maxsize=256)
def _key(key: str) -> bytes:
    return _field(_KEY, key.encode())


@lru_cache(maxsize=256)
def _before_a_double(key: str) -> bytes:
    """Return what comes before the eight bytes of a double, which differs each time."""
    return _attribute(key, 1.0)[: -len(_DOUBLE(1.0))]


def _field(tag: bytes, data: bytes) -> bytes:
    return tag + _size(len(data)) + data


def _size(number: int) -> bytes:
    """Return a number as protobuf's varint."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + _size(number >> 7)
