"""The standard gRPC health service of a worker: NOT_SERVING until the model is loaded."""

import grpc.aio
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)

from epd.wire.service import SERVICE

_NAMES = ("", SERVICE)


class Health:
    """Answers for the whole server and for the worker service alike."""

    def __init__(self, server: grpc.aio.Server) -> None:
        """Register on `server`; nothing serves yet."""
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, is_serving: bool) -> None:
        """Say whether new work is taken."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if is_serving else states.NOT_SERVING
        for name in _NAMES:
            await self._servicer.set(name, state)
