"""The client's side of a generation: takes a worker's events and writes them out.

An answer outlives the calls that feed it: what one pod began another continues. The token path is
`take_next`: two appends and one write, nothing else.
"""

from array import array
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from epd.wire.messages import Outcome
from epd_gateway.calls import Call
from epd_gateway.http import JSON_HEADERS, SSE_HEADERS, ResponseWriter


class Answer(Protocol):
    """What the pipeline needs of an answer.

    Attributes:
        begun: The client has had bytes.
        emitted: Ids of the tokens so far, u32 little endian.
        first_token_s: Monotonic time of the first token; None before.
    """

    emitted: bytearray
    first_token_s: float | None

    @property
    def begun(self) -> bool:
        """The client has had bytes."""
        ...

    def attach(self, call: Call, on_first_token: Callable[[], None]) -> None:
        """Take the events of `call`; `on_first_token` is called at its first token."""
        ...

    def take(self, payload: bytes, token_ids: bytes) -> None:
        """Take an event."""
        ...

    def complete(self, outcome: Outcome) -> None:
        """Write the end."""
        ...

    def restart(self) -> None:
        """Prepare for another pod: drop what the client has not had."""
        ...

    def let_go(self) -> None:
        """Forget the call: it is over."""
        ...


class StreamedAnswer:
    """Server-sent events, written as they come. See `Answer`.

    Attributes:
        event_times_s: Monotonic times of the events with tokens.
    """

    __slots__ = (
        "_call",
        "_headers",
        "_on_first_token",
        "_response",
        "_write",
        "emitted",
        "event_times_s",
        "first_token_s",
    )

    def __init__(self, response: ResponseWriter, id_header: bytes) -> None:
        """Bind to the response; `id_header` goes with the status."""
        self.emitted = bytearray()
        self.event_times_s = array("d")
        self.first_token_s: float | None = None
        self._response = response
        self._headers = SSE_HEADERS + id_header
        self._write = response.write_preframed
        self._call: Call | None = None
        self._on_first_token: Callable[[], None] = _nothing

    @property
    def begun(self) -> bool:
        """The client has had bytes."""
        return self._response.started

    def attach(self, call: Call, on_first_token: Callable[[], None]) -> None:
        """Take the events of `call`; `on_first_token` is called at its first token."""
        self._call = call
        self._on_first_token = on_first_token

    def take(self, payload: bytes, token_ids: bytes) -> None:
        """Take an event up to the first token of a call."""
        self.emitted += token_ids
        if payload:
            if not self._response.started:
                self._response.start_stream(200, self._headers)
            self._write(payload)
        if token_ids:
            now_s = monotonic()
            self.event_times_s.append(now_s)
            if self.first_token_s is None:
                self.first_token_s = now_s
            self._on_first_token()
            if self._response.started and self._call is not None:
                self._call.take = self.take_next

    def take_next(self, payload: bytes, token_ids: bytes) -> None:
        """Take an event after the first."""
        self.emitted += token_ids
        self.event_times_s.append(monotonic())
        if payload:
            self._write(payload)

    def complete(self, outcome: Outcome) -> None:
        """Write the end of the stream."""
        if not self._response.started:
            self._response.start_stream(200, self._headers)
        self._response.end()

    def restart(self) -> None:
        """Keep everything: whatever came, the client has had."""

    def let_go(self) -> None:
        """Forget the call: it is over."""
        self._call = None
        self._on_first_token = _nothing


class WholeAnswer:
    """One JSON body, written at the end. See `Answer`."""

    __slots__ = (
        "_headers",
        "_on_first_token",
        "_parts",
        "_response",
        "emitted",
        "first_token_s",
    )

    def __init__(self, response: ResponseWriter, id_header: bytes) -> None:
        """Bind to the response; `id_header` goes with the status."""
        self.emitted = bytearray()
        self.first_token_s: float | None = None
        self._response = response
        self._headers = JSON_HEADERS + id_header
        self._parts: list[bytes] = []
        self._on_first_token: Callable[[], None] = _nothing

    @property
    def begun(self) -> bool:
        """The client has had bytes."""
        return self._response.started

    def attach(self, call: Call, on_first_token: Callable[[], None]) -> None:
        """Call `on_first_token` at the first token."""
        self._on_first_token = on_first_token

    def take(self, payload: bytes, token_ids: bytes) -> None:
        """Take an event; nearly all are tokens without bytes."""
        if payload:
            self._parts.append(payload)
        if token_ids:
            if self.first_token_s is None:
                self.first_token_s = monotonic()
            on_first_token, self._on_first_token = self._on_first_token, _nothing
            on_first_token()
            self.emitted += token_ids

    def complete(self, outcome: Outcome) -> None:
        """Write the answer."""
        self._response.send(200, self._headers, b"".join(self._parts))

    def restart(self) -> None:
        """Begin anew: the client has had nothing, and log probabilities could not be continued."""
        self.emitted.clear()
        self._parts.clear()

    def let_go(self) -> None:
        """Forget the call: it is over."""
        self._on_first_token = _nothing


def _nothing() -> None:
    """Stand in for a callback."""
