"""A collector of traces that keeps nothing: OTLP over gRPC on a free port of loopback."""

import asyncio

import grpc.aio

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


async def take(request: bytes, context: object) -> bytes:
    """Answer that all has been taken."""
    return b""


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(take)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"collector listens on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
