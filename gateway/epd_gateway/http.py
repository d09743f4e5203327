"""A small HTTP/1.1 server for streams of tokens; why it is ours: docs/adr/0001-own-http-front.md.

    server = HttpServer(handler, limits)
    await server.start("0.0.0.0", 8000)
    ...
    await server.stop(grace_s=30)

`handler` is an async function of one `Request`; it runs as one task per request, answers through
`request.response`, and returns when its answer is complete. A `GatewayError` it raises becomes the
answer; any other exception becomes a 500 that says nothing of its cause. One timer a second looks
after the deadlines of all connections.
"""

import asyncio
import os
import socket
import ssl as tls
from contextlib import suppress
from email.utils import formatdate
from typing import Final

from epd_gateway.http_connection import Handler, HttpConnection, HttpStats
from epd_gateway.http_messages import (
    JSON_HEADERS,
    SSE_HEADERS,
    Request,
    ResponseWriter,
    frame_chunk,
    render_headers,
)
from epd_gateway.settings import HttpLimits

__all__ = [
    "JSON_HEADERS",
    "SSE_HEADERS",
    "Handler",
    "HttpServer",
    "HttpStats",
    "Request",
    "ResponseWriter",
    "frame_chunk",
    "render_headers",
]

_BACKLOG: Final = 2048

# Set on the listener, inherited by what it accepts. A client whose machine vanished without a word
# is noticed after a minute, whether something is being sent to it or not.
_SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)


class HttpServer:
    """Accepts connections and serves their requests until stopped.

    Attributes:
        handler: Serves a request.
        limits: What a client may take.
        stats: Counters since the start.
        connections: Open connections.
        tasks: Handlers that run.
        date_header: The current `Date` line.
        stopping: `stop` has been called.
        buffered_body_bytes: Bodies of all requests received and not yet answered.
    """

    def __init__(self, handler: Handler, limits: HttpLimits | None = None) -> None:
        self.handler = handler
        self.limits = limits or HttpLimits()
        self.stats = HttpStats()
        self.connections: set[HttpConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.date_header = _date_header()
        self.stopping = False
        self.buffered_body_bytes = 0
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._id_prefix = f"req-{os.urandom(6).hex()}-"
        self._ids = 0

    @property
    def port(self) -> int:
        """The TCP port bound, which tells what port 0 became.

        Raises:
            RuntimeError: The server does not listen.
        """
        if self._server is None or not self._server.sockets:
            raise RuntimeError("the server does not listen")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        ssl: tls.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> None:
        """Start accepting connections.

        Args:
            host: Address or name to bind; ignored with `sock`.
            port: TCP port, 0 for any free one; ignored with `sock`.
            sock: A bound TCP socket to listen on instead.
            ssl: Serve TLS with this context.
            reuse_port: Share the port with other processes (SO_REUSEPORT).

        Raises:
            OSError: The address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        where = {"sock": sock} if sock else {"host": host, "port": port, "reuse_port": reuse_port}
        self._server = await loop.create_server(
            lambda: HttpConnection(self, loop), **where, ssl=ssl, backlog=_BACKLOG
        )
        for listener in self._server.sockets:
            for level, option, value in _SOCKET_OPTIONS:
                listener.setsockopt(level, option, value)
        self._sweep_timer = loop.call_later(self.limits.sweep_interval_s, self._sweep)

    def obey(self, limits: HttpLimits) -> None:
        """Hold clients to other limits from now on, those that are connected, too."""
        self.limits = limits
        for connection in self.connections:
            connection.obey(limits)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Stop accepting, let requests in flight end within `grace_s`, then cut the rest off.

        A connection that is kept alive ends with its next answer, which says so, or once it has
        been idle for a moment: closed at once, it would break a request that is on its way.
        When this returns no handler runs any more.
        """
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_soon()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._until_drained()
                if self.tasks:
                    await asyncio.wait(self.tasks)
        for connection in list(self.connections):
            connection.abort()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tasks.clear()
        await self._until_drained()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    def next_request_id(self) -> str:
        """Return an id that no other request has."""
        self._ids += 1
        return f"{self._id_prefix}{self._ids:x}"

    def connection_closed(self, connection: HttpConnection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        if not self.connections:
            self._drained.set()

    async def _until_drained(self) -> None:
        while self.connections:
            self._drained.clear()
            await self._drained.wait()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self.date_header = _date_header()
        for connection in [c for c in self.connections if c.deadline_s <= now_s]:
            connection.on_deadline()
        self._sweep_timer = loop.call_later(self.limits.sweep_interval_s, self._sweep)


def _date_header() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode("ascii")
