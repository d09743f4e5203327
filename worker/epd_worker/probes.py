"""Answers Kubernetes' probes, and the operator's question how much work there is, over plain HTTP.

gRPC's own health service stands behind mutual TLS, which no kubelet speaks. Nothing here tells of
requests, so everybody may ask:

    /health  200 as long as the process answers, while a model loads, too
    /ready   200 while new work is taken, else 503
    /load    {"in_flight": 3}: pieces of work that have begun and not ended
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from epd_worker.engine.settings import SettingsError

MAX_REQUEST_BYTES: Final = 8192
PATIENCE_S: Final = 5.0

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


class Probes:
    """The listener; what it says is asked for at each request."""

    def __init__(self, is_ready: Callable[[], bool], in_flight: Callable[[], int]) -> None:
        """Say what these functions return."""
        self._is_ready = is_ready
        self._in_flight = in_flight
        self._server: asyncio.Server | None = None

    async def start(self, listen: str) -> None:
        """Listen at HOST:PORT; `SettingsError` where that cannot be."""
        host, _, port = listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            raise SettingsError(f"--health-listen {listen}: {error.strerror}") from None

    @property
    def port(self) -> int:
        """The port that it listens at."""
        if self._server is None:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    def answer(self, path: str) -> tuple[int, str]:
        """Return status and body for a path."""
        match path.partition("?")[0]:
            case "/health":
                return 200, "ok\n"
            case "/ready":
                return (200, "ready\n") if self._is_ready() else (503, "not ready\n")
            case "/load":
                return 200, json.dumps({"in_flight": self._in_flight()}) + "\n"
        return 404, "paths: /health /ready /load\n"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                status, body = await self._read(reader)
                kind = "application/json" if body.startswith("{") else "text/plain"
                head = (
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                writer.write((head + body).encode())
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, str]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return 400, "no HTTP request\n"
        words = head.split(b"\r\n", maxsplit=1)[0].decode("latin-1").split(" ")
        return self.answer(words[1]) if len(words) == 3 else (400, "no HTTP request\n")
