"""Bytes in, requests out: the receiving half of a connection, without socket or clock.

httptools (llhttp) parses; this file adds the limits and turns callbacks into whole requests. A
reader is between requests, in a request's head or in its body. Whatever must be refused is raised
from `feed` as the error to answer with; after that, and after a request that asked to close the
connection, the reader takes nothing more.
"""

from collections import deque
from enum import IntEnum
from typing import Final
from urllib.parse import unquote

import httptools

from epd_gateway.errors import (
    BodyTooLarge,
    GatewayError,
    HeadersTooLarge,
    MalformedHttp,
    MethodNotAllowed,
)
from epd_gateway.http_messages import Request
from epd_gateway.settings import HttpLimits

# Framing bytes a chunked body may cost per byte of content; chunks of one byte cost five.
_MAX_FRAMING_RATIO: Final = 8
# Added to each header's length, as HTTP/2 counts: many small headers cost more than they weigh.
_FIELD_OVERHEAD_BYTES: Final = 32
_NO_HEADERS: Final[dict[bytes, str]] = {}


class Receiving(IntEnum):
    """Where in the stream of requests a reader stands."""

    BETWEEN = 0
    HEAD = 1
    BODY = 2


class RequestReader:
    """Turns one connection's bytes into requests.

    Attributes:
        receiving: Where in the stream of requests the reader stands.
        ready: Whole requests not yet taken, oldest first.
        heads_begun: Requests whose first byte has arrived.
        body_bytes: Content received of the current body.
        total_body_bytes: Content received of all bodies so far.
        awaits_continue: The client waits for `100 Continue` before it sends the current body.
        done: Nothing more will be taken.
        limits: How much a request may be.
    """

    __slots__ = (
        "_body",
        "_fields_bytes",
        "_head_bytes",
        "_headers",
        "_keep_alive",
        "_method",
        "_parser",
        "_refusal",
        "_replaying",
        "_upgrade",
        "_url",
        "_version",
        "_wire_bytes",
        "awaits_continue",
        "body_bytes",
        "done",
        "heads_begun",
        "limits",
        "ready",
        "receiving",
        "total_body_bytes",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._refusal: GatewayError | None = None
        self._replaying = False
        self._upgrade = False
        self._url = b""
        self._method = ""
        self._version = ""
        self._headers = _NO_HEADERS
        self._body: list[bytes] = []
        self._keep_alive = True
        self._fields_bytes = 0
        self._head_bytes = 0
        self._wire_bytes = 0
        self.receiving = Receiving.BETWEEN
        self.ready: deque[Request] = deque()
        self.heads_begun = 0
        self.body_bytes = 0
        self.total_body_bytes = 0
        self.awaits_continue = False
        self.done = False

    def feed(self, data: bytes) -> None:
        """Take `data`; whole requests appear in `ready`, also when this raises.

        Raises:
            GatewayError: What to answer, once the requests in `ready` are answered.
        """
        if self.done or self._parser is None:
            return
        before, heads_before = self.receiving, self.heads_begun
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self.done:
                self._refuse(MalformedHttp("the request is not valid HTTP/1.1"))
        if self.receiving is not Receiving.BETWEEN:
            self._count_wire_bytes(len(data), before, self.heads_begun - heads_before)
        if self._refusal is not None:
            raise self._refusal

    def stop(self) -> None:
        """Take nothing more, and drop what is not whole."""
        self.done = True
        self._headers = _NO_HEADERS
        self._body = []

    def close(self) -> None:
        """Free everything; the parser refers back to this reader."""
        self.stop()
        self._parser = None
        self.ready.clear()

    # httptools calls these while it is fed.

    def on_message_begin(self) -> None:
        """Start a new request."""
        if self.done or self._replaying:
            return
        self.receiving = Receiving.HEAD
        self.heads_begun += 1
        self._url = b""
        self._headers = {}
        self._body = []
        self._head_bytes = self._fields_bytes = self._wire_bytes = self.body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        if not self._replaying:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers after the body are ignored, for they may not be trusted."""
        if self.receiving is not Receiving.HEAD or self.done:
            return
        self._fields_bytes += len(name) + len(value) + _FIELD_OVERHEAD_BYTES
        if self._fields_bytes > self.limits.max_header_bytes:
            self._refuse(self._headers_too_large())
            return
        key = name.lower()
        text = value.decode("latin-1")
        headers = self._headers
        if key in headers:
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        """Check the head before the body is let in."""
        if self.done or self._replaying or self._parser is None:
            return
        self.receiving = Receiving.BODY
        parser, headers = self._parser, self._headers
        self._method = parser.get_method().decode("ascii")
        self._version = parser.get_http_version()
        self._keep_alive = parser.should_keep_alive() and self._version == "1.1"
        self._upgrade = parser.should_upgrade()
        refusal = self._objection()
        if refusal is not None:
            self._refuse(refusal)
            return
        self.awaits_continue = (
            self._version == "1.1" and headers.get(b"expect", "").lower() == "100-continue"
        )

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self.done:
            return
        size = len(data)
        self.body_bytes += size
        self.total_body_bytes += size
        self.awaits_continue = False
        self._body.append(data)
        if self.body_bytes > self.limits.max_body_bytes:
            self._refuse(self._body_too_large())

    def on_message_complete(self) -> None:
        """Put the whole request into `ready`."""
        if self.done or self._upgrade:
            return
        if len(self.ready) >= self.limits.max_pipelined_requests:
            most = self.limits.max_pipelined_requests
            self._refuse(MalformedHttp(f"more than {most} requests sent ahead of their answers"))
            return
        path, query = self._target()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self.ready.append(
            Request(
                self._method,
                path,
                query,
                self._headers,
                body,
                keep_alive=self._keep_alive,
                http_11=self._version == "1.1",
            )
        )
        self.receiving = Receiving.BETWEEN
        self.awaits_continue = False
        self._headers = _NO_HEADERS
        self._body = []
        self.done = not self._keep_alive

    def _refuse(self, refusal: GatewayError) -> None:
        self._refusal = refusal
        self.stop()

    def _objection(self) -> GatewayError | None:
        """Return what is wrong with a complete head, if anything."""
        headers, limits = self._headers, self.limits
        if len(self._url) + self._fields_bytes > limits.max_header_bytes:
            return self._headers_too_large()
        if self._version not in ("1.1", "1.0"):
            return MalformedHttp(f"HTTP/{self._version} is not spoken here; use HTTP/1.1")
        if self._version == "1.1" and "," in headers.get(b"host", ","):
            return MalformedHttp("an HTTP/1.1 request carries exactly one Host header")
        if self._method == "CONNECT":
            return MethodNotAllowed("CONNECT is not served; this is not a proxy")
        if int(headers.get(b"content-length", 0)) > limits.max_body_bytes:
            return self._body_too_large()
        return None

    def _count_wire_bytes(self, size: int, before: Receiving, heads: int) -> None:
        """Bound what cannot be seen while it grows: an unfinished head, framing of a body."""
        if self.receiving is Receiving.HEAD:
            # Bytes shared with an earlier request are not held against this head.
            if heads == (before is Receiving.BETWEEN):
                self._head_bytes += size
            if self._head_bytes > self.limits.max_header_bytes:
                self._refuse(self._headers_too_large())
        elif before is Receiving.BODY and not heads:
            self._wire_bytes += size
            allowed = self.limits.max_header_bytes + _MAX_FRAMING_RATIO * self.body_bytes
            if self._wire_bytes > allowed:
                self._refuse(MalformedHttp("the body's chunks carry next to no content"))

    def _target(self) -> tuple[str, str]:
        """Return path and query of the request target."""
        url = self._url
        if url[:1] not in (b"/", b"*"):  # absolute form, as clients of proxies send it
            parsed = httptools.parse_url(url)
            path, query = parsed.path or b"/", parsed.query or b""
        else:
            path, _, query = url.partition(b"?")
        text = path.decode("latin-1")
        return (unquote(text) if "%" in text else text), query.decode("latin-1")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1 with a request that offered another protocol.

        Java's client offers h2c with every POST. llhttp stops behind such a head and never reads
        the body, so a fresh parser is told the head's framing and takes over.
        """
        if self.done:
            return
        framing = [
            b"%b: %b\r\n" % (name, self._headers[name].encode("latin-1"))
            for name in (b"content-length", b"transfer-encoding")
            if name in self._headers
        ]
        self._upgrade = False
        self._parser = httptools.HttpRequestParser(self)
        self._replaying = True
        head = b"%b / HTTP/1.1\r\n%b\r\n" % (self._method.encode(), b"".join(framing))
        self._parser.feed_data(head)
        self._replaying = False
        self.feed(rest)

    def _body_too_large(self) -> GatewayError:
        return BodyTooLarge(f"the body is over {self.limits.max_body_bytes} bytes")

    def _headers_too_large(self) -> GatewayError:
        return HeadersTooLarge(f"the headers are over {self.limits.max_header_bytes} bytes")
