"""Spans while they are open, and who keeps which.

A span here is a few fields of its one owner, without a lock, and becomes OTLP in the exporter's
thread. With OpenTelemetry's own objects a request's four spans took five times as much.
"""

import threading
import time
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Value: TypeAlias = str | int | float | bool

_NOTHING: Final[Mapping[str, Value]] = MappingProxyType({})


class Kind(IntEnum):
    """Which side of a call a span is, as OTLP numbers it."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class _Flags:
    sampled: Final = True


class _Kept:
    """What OpenTelemetry's batch processor asks of a span before it takes it."""

    trace_flags: Final = _Flags()


class Span:
    """One span.

    Attributes:
        name: What it is about.
        trace_id: The trace it belongs to, 32 hexadecimal digits.
        span_id: Its own id, 16 hexadecimal digits.
        parent_id: The id of the span around it; empty: it is the first of its trace.
        is_far: The span around it is another program's.
        sampled: Somebody keeps it.
        kind: Which side of a call it is.
        start_ns: Unix time of its begin.
        end_ns: Unix time of its end; 0 before.
        attributes: What is known of it.
        failure: Why what it is about went wrong; None: it did not.
    """

    __slots__ = (
        "_keeper",
        "attributes",
        "end_ns",
        "failure",
        "is_far",
        "kind",
        "name",
        "parent_id",
        "sampled",
        "span_id",
        "start_ns",
        "trace_id",
    )

    context: Final = _Kept()

    def __init__(
        self,
        keeper: "Keeper",
        name: str,
        trace_id: str,
        span_id: str,
        parent_id: str,
        *,
        is_far: bool,
        sampled: bool,
        kind: Kind,
        start_ns: int,
        attributes: Mapping[str, Value],
    ) -> None:
        """Open it; see `Tracing.begin`."""
        self._keeper = keeper
        self.name = name
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.is_far = is_far
        self.sampled = sampled
        self.kind = kind
        self.start_ns = start_ns
        self.end_ns = 0
        self.attributes = attributes
        self.failure: str | None = None

    @property
    def traceparent(self) -> str:
        """The W3C name by which another program can go on."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        """Say more of it."""
        self.attributes = {**self.attributes, **attributes}

    def fail(self, reason: str) -> None:
        """Note that what it is about went wrong; one word or two, never a client's text."""
        self.failure = reason

    def end(self, at_ns: int | None = None) -> None:
        """End it, once, and send it if anybody keeps it.

        Args:
            at_ns: Unix time of its end; None: now.
        """
        if self.sampled:
            self.end_ns = time.time_ns() if at_ns is None else at_ns
            self._keeper.on_end(self)


class Keeper(Protocol):
    """Takes spans that have ended, and sends them in a thread of its own."""

    def on_end(self, span: Span) -> None:
        """Take a span."""
        ...

    def shutdown(self) -> None:
        """Send what is left."""
        ...


class Tracing:
    """Makes the spans of one program. Who samples, and the ids, are OpenTelemetry's."""

    def __init__(self, provider: "TracerProvider", keeper: Keeper, close_s: float) -> None:
        """Sample as `provider` does, and give what has ended to `keeper`.

        Args:
            provider: Where the environment's sampler and ids are.
            keeper: Sends spans; ended by `close`.
            close_s: What `close` grants the last spans.
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace.sampling import Decision

        self._keeper = keeper
        self._close_s = close_s
        self._should_sample = provider.sampler.should_sample
        self._trace_id = provider.id_generator.generate_trace_id
        self._span_id = provider.id_generator.generate_span_id
        self._trace = trace
        self._kept = Decision.RECORD_AND_SAMPLE

    def begin(
        self,
        name: str,
        parent: str | Span = "",
        *,
        start_ns: int | None = None,
        outward: bool | None = None,
        attributes: Mapping[str, Value] = _NOTHING,
    ) -> Span:
        """Begin a span; whoever begins it ends it.

        Args:
            name: Few of them; what differs stands in the attributes.
            parent: A span of this program, or the valid `traceparent` of another's; empty: this
                begins a trace.
            start_ns: Unix time at which it began; None: now.
            outward: True for a call on another program, False for one that is served, None within.
            attributes: What is known already.
        """
        kind = Kind.INTERNAL if outward is None else Kind.CLIENT if outward else Kind.SERVER
        if isinstance(parent, Span):
            trace_id, parent_id, sampled = parent.trace_id, parent.span_id, parent.sampled
        elif parent:
            trace_id, parent_id = parent[3:35], parent[36:52]
            sampled = self._is_sampled(name, int(trace_id, 16), kind, parent)
        else:
            number, parent_id = self._trace_id(), ""
            trace_id = f"{number:032x}"
            sampled = self._is_sampled(name, number, kind)
        return Span(
            self._keeper, name, trace_id, f"{self._span_id():016x}", parent_id,
            is_far=isinstance(parent, str) and bool(parent), sampled=sampled, kind=kind,
            start_ns=time.time_ns() if start_ns is None else start_ns, attributes=attributes,
        )  # fmt: skip

    def close(self) -> None:
        """Send what is left, and stop; what a slow collector has not taken by then is lost."""
        # The exporter's own limits are longer than a program may take to end.
        last = threading.Thread(target=self._keeper.shutdown, daemon=True)
        last.start()
        last.join(self._close_s)

    def _is_sampled(self, name: str, trace_id: int, kind: Kind, parent: str = "") -> bool:
        """Ask the sampler whether anybody keeps a trace that comes in, or begins here."""
        trace, context = self._trace, None
        if parent:
            flags = trace.TraceFlags(int(parent[53:55], 16))
            far = trace.SpanContext(trace_id, int(parent[36:52], 16), True, flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(far))
        asked = self._should_sample(context, trace_id, name, trace.SpanKind(kind - 1))
        return asked.decision is self._kept
