"""A collector of traces in this process: OTLP over gRPC, as OpenTelemetry's own receives it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Received:
    """One span as the collector has it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    instance: str
    failed: bool
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


class Receiver(service_grpc.TraceServiceServicer):
    """Everything that was exported."""

    def __init__(self) -> None:
        self.url = ""
        self.raw = b""
        self.spans: list[Received] = []

    def Export(self, request: Any, context: Any) -> Any:
        """Take spans."""
        self.raw += request.SerializeToString()
        for group in request.resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]
        return service.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Received]:
        """Return the spans of one trace, in the order in which they began."""
        found = [span for span in list(self.spans) if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start_ns)

    def names(self, trace_id: str) -> set[str]:
        """Return the names of the spans of one trace."""
        return {span.name for span in self.of(trace_id)}


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        resource["service.name"],
        resource["service.instance.id"],
        span.status.code == Status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Give a collector that listens on loopback."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    service_grpc.add_TraceServiceServicer_to_server(receiver, server)
    receiver.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
