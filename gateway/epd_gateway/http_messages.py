"""One HTTP request and the writer of its answer; no socket, no parser, no clock.

Header blocks are bytes: lines that each end with CRLF, rendered once with `render_headers` and
reused, because an answer's headers hardly ever change. Nothing here awaits: a write goes straight
to the transport, so that a worker's step callback can serve hundreds of streams in one go.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol

from epd.logs import places
from epd_gateway.errors import GatewayError, sse_error_event

logger = logging.getLogger(__name__)

JSON_HEADERS: Final = b"content-type: application/json\r\n"
SSE_HEADERS: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
)

_LAST_CHUNK: Final = b"0\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_BODYLESS: Final = frozenset({204, 304})


def render_headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return `fields` as a header block.

    Raises:
        ValueError: A name or value would end its line early.
    """
    lines = []
    for name, value in fields:
        line = f"{name}: {value}"
        if not name or "\r" in line or "\n" in line or "\0" in line:
            raise ValueError(f"header {name!r} holds a control character or has no name")
        lines.append(line.encode("latin-1") + b"\r\n")
    return b"".join(lines)


class ClientLink(Protocol):
    """What a response needs of the connection it is written to."""

    def sender(self) -> Callable[[bytes], None]:
        """Return what takes bytes; the transport's own method, for one call per token counts."""

    def date_header(self) -> bytes:
        """Return the current `Date` header line."""

    def keeps_alive(self) -> bool:
        """Return whether the connection may serve another request after this one."""

    def response_done(self, *, close: bool) -> None:
        """Take note that the answer is complete."""

    def abort(self) -> None:
        """Cut the connection off, so that the client sees an incomplete answer."""


class ResponseWriter:
    """Writes one answer: either `send`, or `start_stream`, writes and `end`.

    All methods are synchronous and cheap. Once the answer is finished or the client is gone,
    writes are dropped without an error: whoever produces tokens need not know.

    Attributes:
        request_id: Sent as `x-request-id` with every error.
        status: The status sent; 0 before.
        started: The status is decided; another answer is no longer possible.
        finished: The answer is complete, or the client is gone.
    """

    __slots__ = (
        "_bodyless",
        "_chunked",
        "_close",
        "_head",
        "_is_sse",
        "_link",
        "_plain",
        "_send",
        "finished",
        "request_id",
        "started",
        "status",
    )

    def __init__(self, link: ClientLink, request_id: str, *, bodyless: bool, chunked: bool) -> None:
        """Bind the answer to its client.

        Args:
            link: The connection.
            request_id: For error answers.
            bodyless: The request was HEAD: send headers only.
            chunked: The client understands chunked framing (HTTP/1.1).
        """
        self._link: ClientLink | None = link
        self._send = link.sender()
        self._bodyless = bodyless
        self._chunked = chunked
        self._close = False
        self._head = b""
        self._is_sse = False
        self._plain = False
        self.request_id = request_id
        self.status = 0
        self.started = False
        self.finished = False

    @property
    def streaming(self) -> bool:
        """Whether a stream has begun and not ended."""
        return self.started and not self.finished

    def send(self, status: int, headers: bytes = b"", body: bytes = b"") -> None:
        """Answer in one go; the length is filled in.

        Raises:
            RuntimeError: An answer was already started.
        """
        if status not in _BODYLESS:
            headers += b"content-length: %d\r\n" % len(body)
        head = self._begin(status, headers)
        self._finish(head if self._bodyless else head + body)

    def start_stream(self, status: int = 200, headers: bytes = SSE_HEADERS) -> None:
        """Decide on status and headers of a streamed answer.

        They leave together with the first write: one packet, one system call.

        Raises:
            RuntimeError: An answer was already started.
        """
        if self._chunked:
            headers += b"transfer-encoding: chunked\r\n"
        else:
            self._close = True
        self._is_sse = b"text/event-stream" in headers
        self._head = self._begin(status, headers)

    def write(self, data: bytes) -> None:
        """Stream `data`; empty data is nothing."""
        if data:
            self.write_preframed(frame_chunk(data))

    def write_preframed(self, data: bytes) -> None:
        """Stream `data`, one or more whole HTTP chunks as the worker framed them.

        The last chunk (of length 0) is not for the worker to send: `end` does.
        """
        if self._plain:
            self._send(data)
        elif self._is_open() and data:
            payload = self._payload(data)
            self._plain = self._chunked and not self._bodyless
            if payload:
                self._send(payload)

    def end(self, preframed: bytes = b"") -> None:
        """Complete the stream, with a last piece (whole HTTP chunks) in the same system call.

        Raises:
            RuntimeError: No stream was started.
        """
        if self._is_open():
            self._finish(self._payload(preframed + _LAST_CHUNK))

    def fail(self, error: GatewayError) -> None:
        """Tell the client of `error` in whatever way is still open.

        Before the start: an ordinary answer in OpenAI's error shape. Inside a stream of events:
        an error event, and the connection closes. Inside any other stream: the connection is cut.
        """
        if self.finished:
            return
        if not self.started:
            self.send(error.status, error_headers(error, self.request_id), error.to_json())
        elif self._is_sse:
            self._close = True
            self.end(frame_chunk(sse_error_event(error)))
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the connection off; the client sees an incomplete answer."""
        if self._link is not None:
            self._link.abort()

    def detach(self) -> None:
        """Let go of the connection, and drop everything written from here on."""
        self.finished = True
        self._plain = False
        self._head = b""
        self._link = None
        self._send = _discard

    def _begin(self, status: int, headers: bytes) -> bytes:
        """Return the bytes of status line and headers."""
        if self.started:
            raise RuntimeError("the response was already started")
        self.started = True
        self.status = status
        if self._link is None:
            return b""
        if not self._link.keeps_alive():
            self._close = True
        connection = b"connection: close\r\n" if self._close else b""
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"%b%b%b%b\r\n" % (line, self._link.date_header(), headers, connection)

    def _is_open(self) -> bool:
        if not self.started:
            raise RuntimeError("the stream was not started")
        return not self.finished

    def _payload(self, chunks: bytes) -> bytes:
        """Return what the client must see of `chunks`, after the headers if they are still here."""
        head, self._head = self._head, b""
        if self._bodyless:
            return head
        return head + (chunks if self._chunked else strip_chunk_framing(chunks))

    def _finish(self, data: bytes) -> None:
        # The answer counts as finished before its last bytes are handed over: a client too slow for
        # those is a matter of the flush timeout, no longer of the stream's buffer limit.
        send, link, close = self._send, self._link, self._close
        self.detach()
        if data:
            send(data)
        if link is not None:
            link.response_done(close=close)


class Request:
    """One request, read in full.

    Attributes:
        id: The client's `x-request-id` where it is sane, else one of ours; set before the handler.
        method: Upper-case method.
        path: Percent-decoded path.
        query: What followed `?`, undecoded; empty without one.
        headers: Lower-case names to values; a repeated header's values are joined by commas.
        body: The whole body. Set it to `b""` once parsed, to free its memory while streaming.
        keep_alive: The client wants to send another request after this one.
        http_11: The client speaks HTTP/1.1, not 1.0.
        response: Writes the answer; set before the handler.
        describe: Returns what lines about it say; set by a handler that knows more than its id.
    """

    __slots__ = (
        "_callbacks",
        "_event",
        "_gone",
        "body",
        "describe",
        "headers",
        "http_11",
        "id",
        "keep_alive",
        "method",
        "path",
        "query",
        "response",
    )

    id: str
    response: ResponseWriter

    def __init__(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: Mapping[bytes, str] = MappingProxyType({}),
        body: bytes = b"",
        *,
        keep_alive: bool = True,
        http_11: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.http_11 = http_11
        self.describe: Callable[[], dict[str, str]] | None = None
        self._callbacks: list[Callable[[], None]] | None = None
        self._event: asyncio.Event | None = None
        self._gone = False

    def log_fields(self) -> dict[str, str]:
        """Return what every line about it says."""
        return self.describe() if self.describe is not None else {"client_request": self.id}

    @property
    def disconnected(self) -> asyncio.Event:
        """Set once the client has gone away before its answer was complete."""
        if self._event is None:
            self._event = asyncio.Event()
            if self._gone:
                self._event.set()
        return self._event

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` should the client go away before its answer is complete.

        It is called at once if that has happened. It is never called from within a write, not even
        when that write is what cuts a slow client off.
        """
        if self._gone:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def client_gone(self) -> None:
        """Tell everyone that the client has gone away; called by the connection."""
        self._gone = True
        self.response.detach()
        if self._event is not None:
            self._event.set()
        callbacks, self._callbacks = self._callbacks or (), None
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                log_defect("a disconnect callback failed", error, self.log_fields())


def error_headers(error: GatewayError, request_id: str) -> bytes:
    """Return the header block of an answer whose body is `error`."""
    headers = JSON_HEADERS + render_headers((("x-request-id", request_id),))
    if error.retry_after_s is not None:
        headers += b"retry-after: %d\r\n" % error.retry_after_s
    return headers


def frame_chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def strip_chunk_framing(chunks: bytes) -> bytes:
    """Return the payload of whole HTTP chunks, for clients that know no chunks (HTTP/1.0)."""
    parts = []
    start = 0
    while start < len(chunks):
        line_end = chunks.index(b"\r\n", start)
        size = int(chunks[start:line_end], 16)
        parts.append(chunks[line_end + 2 : line_end + 2 + size])
        start = line_end + 2 + size + 2
    return b"".join(parts)


def log_defect(
    what: str, error: BaseException, fields: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Log a defect of ours by type and place; its text stays out, for it may quote a prompt."""
    where = places(error.__traceback__)
    logger.error("%s: %s at %s", what, type(error).__name__, where, extra=dict(fields))


def _discard(_data: bytes) -> None:
    """Stand in for a transport that is gone."""
