"""One client connection: requests in order, answers in order, and deadlines.

At most one request is served at a time; what the client sends ahead waits in the reader, and
reading pauses. While a request is served no receiving deadline runs; otherwise the server's sweep
calls `on_deadline` once `deadline_s` has passed.

A refusal (400, 408, 413, 431, 503) is answered after the requests before it and ends the
connection the slow way: the answer, then end-of-file, then a short while of swallowing what the
client still sends, because closing on unread input makes the kernel throw the answer away.
"""

import asyncio
import logging
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, cast

from epd_gateway.errors import (
    GatewayError,
    InternalError,
    Overloaded,
    RequestTimeout,
    ShuttingDown,
)
from epd_gateway.http_messages import Request, ResponseWriter, log_defect
from epd_gateway.http_reader import Receiving, RequestReader
from epd_gateway.settings import HttpLimits

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Awaitable[None]]

_SANE_REQUEST_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_LAST_REQUEST_S: Final = 0.5
"""While stopping: for so long an idle client may still have a request on its way."""
# Refused connections (503) kept open at once so that their clients can read the refusal.
_MAX_REFUSED_CONNECTIONS: Final = 64


@dataclass(slots=True)
class HttpStats:
    """What the front has seen since it started.

    Attributes:
        connections_total: Connections accepted.
        requests_total: Requests handed to the handler.
        refusals_total: Requests and connections refused before the handler, by error code.
        disconnects_total: Clients gone before their answer was complete, slow ones included.
        slow_clients_total: Streams ended because the client did not read them.
    """

    connections_total: int = 0
    requests_total: int = 0
    refusals_total: Counter[str] = field(default_factory=Counter)
    disconnects_total: int = 0
    slow_clients_total: int = 0


class Front(Protocol):
    """What a connection needs of its server.

    Attributes:
        handler: Serves a request.
        limits: What a client may take.
        stats: Counters shared by all connections.
        connections: Open connections.
        tasks: Handlers that run.
        date_header: The current `Date` line.
        stopping: No connection is kept alive any more.
        buffered_body_bytes: Bodies of all requests received and not yet answered.
    """

    handler: Handler
    limits: HttpLimits
    stats: HttpStats
    connections: "set[HttpConnection]"
    tasks: "set[asyncio.Task[None]]"
    date_header: bytes
    stopping: bool
    buffered_body_bytes: int

    def next_request_id(self) -> str:
        """Return an id that no other request has."""

    def connection_closed(self, connection: "HttpConnection") -> None:
        """Forget a connection."""


class HttpConnection(asyncio.Protocol):
    """Serves one client.

    Attributes:
        deadline_s: Loop time at which `on_deadline` is due; infinite when nothing is.
        transport: Set once connected.
    """

    __slots__ = (
        "_accounted_bytes",
        "_active",
        "_active_bytes",
        "_closing",
        "_deaf",
        "_front",
        "_held_bytes",
        "_loop",
        "_reader",
        "_refusal",
        "_waiting_for",
        "_window_start_bytes",
        "_write_paused",
        "deadline_s",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._loop = loop
        self._reader = RequestReader(front.limits)
        self._active: Request | None = None
        self._active_bytes = 0
        self._refusal: GatewayError | None = None
        self._held_bytes = 0
        self._accounted_bytes = 0
        self._window_start_bytes = 0
        self._waiting_for: tuple[int, Receiving] | None = None
        self._deaf = False
        self._closing = False
        self._write_paused = False
        self.deadline_s = math.inf

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or refuse it when there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        front = self._front
        front.stats.connections_total += 1
        excess = len(front.connections) - front.limits.max_connections
        if excess >= _MAX_REFUSED_CONNECTIONS or front.stopping:
            self.abort()
            return
        front.connections.add(self)
        self.transport.set_write_buffer_limits(high=front.limits.max_client_buffer_bytes)
        if excess >= 0:
            self._refuse(Overloaded("too many connections; try again later"))
        else:
            self._wait_for_client()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._deaf:
            return
        reader = self._reader
        try:
            reader.feed(data)
        except GatewayError as refusal:
            self._refusal = refusal
        if reader.total_body_bytes != self._accounted_bytes:
            self._account_body()
        self._deaf = reader.done
        if self._active is None:
            self._serve_next()
        if reader.ready:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        """Treat the end of input as the client leaving, as proxies do."""
        if self._active is not None:
            self.abort()
        else:
            self._close()

    def pause_writing(self) -> None:
        """End the stream of a client that does not read it."""
        self._write_paused = True
        request = self._active
        if request is not None and request.response.streaming:
            self._front.stats.slow_clients_total += 1
            fields = request.log_fields()
            logger.info("the client reads too slowly; its stream ends", extra=fields)
            self.abort()

    def resume_writing(self) -> None:
        """Go on with what waited for the client to read."""
        self._write_paused = False
        if self._active is None and not self._closing:
            self._serve_next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, and tell the handler."""
        front = self._front
        front.connection_closed(self)
        front.buffered_body_bytes -= self._held_bytes
        self._held_bytes = 0
        self._closing = self._deaf = True
        self._reader.close()
        request, self._active = self._active, None
        if request is not None:
            front.stats.disconnects_total += 1
            request.client_gone()

    # What the server calls.

    def on_deadline(self) -> None:
        """Act on a client that took too long."""
        reader, limits = self._reader, self._front.limits
        if self._closing or self._write_paused:
            self.abort()
        elif reader.receiving is Receiving.BETWEEN:
            self._close()
        elif reader.receiving is Receiving.HEAD:
            self._refuse(RequestTimeout("the request's headers did not arrive in time"))
        elif reader.body_bytes - self._window_start_bytes < max(
            1, limits.min_body_bytes_per_s * limits.body_timeout_s
        ):
            self._refuse(RequestTimeout("the request's body did not arrive in time"))
        else:
            self._window_start_bytes = reader.body_bytes
            self.deadline_s = self._loop.time() + limits.body_timeout_s

    def obey(self, limits: HttpLimits) -> None:
        """Read by other limits from now on."""
        self._reader.limits = limits

    def close_soon(self) -> None:
        """Close in a moment, unless a request is being received or served by then."""
        idle = self._active is None and self._reader.receiving is Receiving.BETWEEN
        if idle and not self._closing:
            self.deadline_s = min(self.deadline_s, self._loop.time() + _LAST_REQUEST_S)

    # What a response calls.

    def sender(self) -> Callable[[bytes], None]:
        """Return what takes bytes."""
        return self.transport.write

    def date_header(self) -> bytes:
        """Return the current `Date` line."""
        return self._front.date_header

    def keeps_alive(self) -> bool:
        """Return whether another request may follow the one being served."""
        return self._active is not None and self._active.keep_alive and not self._front.stopping

    def response_done(self, *, close: bool) -> None:
        """Go on to the next request, or end the connection."""
        if self._active is None:  # it was a refusal
            self._linger()
            return
        self._active = None
        self._front.buffered_body_bytes -= self._active_bytes
        self._held_bytes -= self._active_bytes
        if close:
            self._close()
        else:
            self._serve_next()

    def abort(self) -> None:
        """Cut the connection off; the handler learns of it from the event loop, not from here."""
        self._deaf = self._closing = True
        if self._active is not None:
            self._active.response.detach()
        self.transport.abort()

    # Inside.

    def _account_body(self) -> None:
        """Count what has arrived of bodies against the memory that all requests share."""
        reader, front = self._reader, self._front
        arrived = reader.total_body_bytes - self._accounted_bytes
        self._accounted_bytes = reader.total_body_bytes
        self._held_bytes += arrived
        front.buffered_body_bytes += arrived
        over = front.buffered_body_bytes > front.limits.max_buffered_body_bytes
        if over and reader.receiving is Receiving.BODY and self._refusal is None:
            self._refusal = Overloaded("too many large requests at once; try again later")
            reader.stop()

    def _serve_next(self) -> None:
        """Start the next request or answer the refusal, if there is one; else wait."""
        ready = self._reader.ready
        if self._write_paused:
            # Earlier answers are still unread: no new one on top of them.
            self._arm((-1, Receiving.BETWEEN), self._front.limits.flush_timeout_s)
        elif ready:
            self._start(ready.popleft())
            if not ready:
                # Also when nothing more is taken: only who reads learns that the client left.
                self.transport.resume_reading()
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)
        else:
            self._wait_for_client()

    def _start(self, request: Request) -> None:
        front = self._front
        request.id = self._request_id(request)
        request.response = ResponseWriter(
            self, request.id, bodyless=request.method == "HEAD", chunked=request.http_11
        )
        self._active = request
        self._active_bytes = len(request.body)
        self._waiting_for = None
        self.deadline_s = math.inf
        front.stats.requests_total += 1
        front.tasks.add(self._loop.create_task(self._run(request)))

    async def _run(self, request: Request) -> None:
        response = request.response
        try:
            await self._front.handler(request)
            if not response.finished:
                raise RuntimeError("the handler returned before its answer was complete")
        except GatewayError as error:
            response.fail(error)
        except asyncio.CancelledError:
            # By `stop`, or by the handler's own disconnect callback; the task ends here either way.
            response.fail(ShuttingDown("the gateway is stopping; try again"))
        except Exception as error:
            log_defect("the handler failed", error, request.log_fields())
            response.fail(InternalError(f"the gateway failed; request id {request.id}"))
        finally:
            self._front.tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _request_id(self, request: Request | None) -> str:
        given = request.headers.get(b"x-request-id") if request is not None else None
        if given is not None and _SANE_REQUEST_ID.fullmatch(given):
            return given
        return self._front.next_request_id()

    def _refuse(self, refusal: GatewayError) -> None:
        """Take nothing more from a client that nothing is being done for, and say why."""
        self._reader.stop()
        self._deaf = True
        self._refusal = refusal
        self._serve_next()

    def _answer_refusal(self, refusal: GatewayError) -> None:
        self._deaf = True
        self._front.stats.refusals_total[refusal.code or refusal.type] += 1
        request_id = self._front.next_request_id()
        ResponseWriter(self, request_id, bodyless=False, chunked=True).fail(refusal)

    def _wait_for_client(self) -> None:
        reader, limits = self._reader, self._front.limits
        if reader.receiving is Receiving.BODY:
            if reader.awaits_continue:
                reader.awaits_continue = False
                self.transport.write(_CONTINUE)
            timeout_s = limits.body_timeout_s
        elif self._front.stopping and reader.receiving is Receiving.BETWEEN:
            timeout_s = _LAST_REQUEST_S
        elif reader.receiving is Receiving.HEAD or not reader.heads_begun:
            timeout_s = limits.header_timeout_s
        else:
            timeout_s = limits.idle_timeout_s
        self._arm((reader.heads_begun, reader.receiving), timeout_s)

    def _arm(self, waiting_for: tuple[int, Receiving], timeout_s: float) -> None:
        """Set the deadline once per thing waited for: progress within it wins no time."""
        if waiting_for != self._waiting_for:
            self._waiting_for = waiting_for
            self._window_start_bytes = self._reader.body_bytes
            self.deadline_s = self._loop.time() + timeout_s

    def _close(self) -> None:
        """Close once everything written has reached the client."""
        self._deaf = self._closing = True
        self.deadline_s = self._loop.time() + self._front.limits.flush_timeout_s
        self.transport.close()

    def _linger(self) -> None:
        """Close the slow way; see the module's docstring."""
        self._closing = True
        self.deadline_s = self._loop.time() + self._front.limits.linger_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
