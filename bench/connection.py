"""The client's end of one connection of a load: writes a request, reads and judges its answer."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol, cast

from prompts import Exchange

LAZY_READ_S = 0.25
_FIRST_TOKEN = re.compile(rb'"content": ?"[^"]')
_PIECE = re.compile(rb'"content": ?"([^"]*)"')
_ID = re.compile(rb'"id": ?"([^"]*)"')
_END = b"0\r\n\r\n"


class Sample:
    """What became of one request. Times are of `time.monotonic`, 0.0: not yet."""

    __slots__ = (
        "arrivals_s", "due_s", "eager", "ended_s", "exchange", "first_s", "identifier", "parts",
        "sent_s", "timed", "verdict",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, due_s: float, *, timed: bool, eager: bool) -> None:
        self.exchange = exchange
        self.due_s = due_s
        self.timed = timed
        self.eager = eager
        self.sent_s = self.first_s = self.ended_s = 0.0
        self.arrivals_s: list[float] = []
        self.parts: list[bytes] = []
        self.verdict = ""
        self.identifier = ""


class Sender(Protocol):
    """What a connection needs of the load that it belongs to."""

    head: bytes
    paused: deque[tuple[float, "Connection", Sample]]

    def finish(self, connection: "Connection", sample: Sample) -> None:
        """Take a request back that has ended."""
        ...


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self, load: Sender) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._sample: Sample | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request in flight, if there is one, as an error."""
        self._transport = None
        if self._sample is not None:
            self._end("connection lost")

    @property
    def usable(self) -> bool:
        """The next request can go out here."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, sample: Sample) -> None:
        """Write a request."""
        body = sample.exchange.body
        self._sample = sample
        sample.sent_s = time.monotonic()
        if self._transport is None:
            self._end("connection lost")
            return
        self._transport.write(self._load.head % len(body) + body)

    def resume(self, sample: Sample) -> None:
        """Read on, if this is still the request that was paused for."""
        if self._transport is not None and self._sample is sample:
            self._transport.resume_reading()

    def close(self) -> None:
        """Hang up between requests."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Give the request up."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer; the hot path."""
        sample = self._sample
        if sample is None:
            return
        now_s = time.monotonic()
        sample.parts.append(data)
        if not sample.first_s:
            if _FIRST_TOKEN.search(data) or _FIRST_TOKEN.search(b"".join(sample.parts)):
                sample.first_s = now_s
        elif sample.eager:
            sample.arrivals_s.append(now_s)
        if data.endswith(_END) or (len(data) < len(_END) and self._ends_here(sample)):
            sample.ended_s = now_s
            self._end(judge(b"".join(sample.parts), sample))
        elif not sample.first_s and is_refusal(sample.parts[0]):
            sample.ended_s = now_s
            self._end(f"status {sample.parts[0][9:12].decode('latin-1')}")
            self.abort()
        elif sample.first_s and not sample.eager and self._transport is not None:
            self._transport.pause_reading()
            self._load.paused.append((now_s + LAZY_READ_S, self, sample))

    def _ends_here(self, sample: Sample) -> bool:
        return b"".join(sample.parts[-5:]).endswith(_END)

    def _end(self, verdict: str) -> None:
        sample, self._sample = self._sample, None
        if sample is not None:
            sample.verdict = verdict
            sample.parts = []
            self._load.finish(self, sample)


def is_refusal(first_part: bytes) -> bool:
    """Tell whether an answer began with a status other than 200."""
    return first_part.startswith(b"HTTP/1.") and first_part[9:12] != b"200"


def judge(answer: bytes, sample: Sample) -> str:
    """Return "ok", or what is wrong with a whole answer; notes its id."""
    if is_refusal(answer):
        return f"status {answer[9:12].decode('latin-1')}"
    found = _ID.search(answer)
    sample.identifier = found[1].decode() if found else ""
    if b"[DONE]" not in answer[-64:]:
        return "incomplete"
    expected = sample.exchange.expected
    if expected is None or b"".join(_PIECE.findall(answer)) == expected:
        return "ok"
    # A proxy may cut an event in two: look again without the framing.
    return "ok" if b"".join(_PIECE.findall(b"".join(dechunked(answer)))) == expected else "altered"


def dechunked(answer: bytes) -> Iterator[bytes]:
    """Yield the chunks of a chunked HTTP answer."""
    at = answer.find(b"\r\n\r\n") + 4
    while (line_end := answer.find(b"\r\n", at)) >= 0:
        size = int(answer[at:line_end], 16)
        if size == 0:
            return
        at = line_end + 2 + size + 2
        yield answer[line_end + 2 : at - 2]
