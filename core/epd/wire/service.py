"""The gRPC methods of `epd.worker.v1.Worker`, with their (de)serializers.

Written once for both ends: `WorkerClient` for gateways, `add_worker_service` for workers. They
carry `messages` objects; protobuf stays inside `codec`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from epd.wire import codec, messages

SERVICE = "epd.worker.v1.Worker"
MAX_MESSAGE_BYTES = 256 << 20
"""Several images of one request travel in one frame; the body limit is far below this."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A gateway that vanished without a word must not hold EC, KV and streams for hours.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


class WorkerClient:
    """The calls that a worker answers, over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Bind the methods to `channel`; no connection is made before the first call."""
        self.describe: Callable[..., Awaitable[messages.Description]] = channel.unary_unary(
            f"/{SERVICE}/Describe",
            request_serializer=codec.encode_empty,
            response_deserializer=codec.decode_description,
        )
        self.watch_load: Callable[..., Any] = channel.unary_stream(
            f"/{SERVICE}/WatchLoad",
            request_serializer=codec.encode_watch_load_request,
            response_deserializer=codec.decode_load,
        )
        self.session: Callable[..., Any] = channel.stream_stream(
            f"/{SERVICE}/Session",
            request_serializer=codec.encode_gateway_frame,
            response_deserializer=codec.decode_worker_frame,
        )


class WorkerServicer(Protocol):
    """What a worker implements."""

    async def describe(self, request: None, context: Any) -> messages.Description:
        """Say what this worker is."""
        ...

    def watch_load(self, interval_ms: int, context: Any) -> AsyncIterator[messages.Load]:
        """Yield the load at once and at each change."""
        ...

    async def session(self, frames: AsyncIterator[messages.GatewayFrame], context: Any) -> None:
        """Serve one gateway until it hangs up; frames go out by `context.write`."""
        ...


def add_worker_service(server: grpc.aio.Server, servicer: WorkerServicer) -> None:
    """Register `servicer` on `server`."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Describe": grpc.unary_unary_rpc_method_handler(
            servicer.describe,
            request_deserializer=codec.decode_empty,
            response_serializer=codec.encode_description,
        ),
        "WatchLoad": grpc.unary_stream_rpc_method_handler(
            servicer.watch_load,
            request_deserializer=codec.decode_watch_load_request,
            response_serializer=codec.encode_load,
        ),
        "Session": grpc.stream_stream_rpc_method_handler(
            servicer.session,
            request_deserializer=codec.decode_gateway_frame,
            response_serializer=codec.encode_worker_frame,
        ),
    }
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
