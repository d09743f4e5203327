"""Spans while they are open, and who keeps which.

A span here is a few fields of its one owner, without a lock, and becomes OTLP in the exporter's
thread. With OpenTelemetry's own objects a request's four spans took five times as much.
"""

import re
import threading
import time
from collections.abc import Mapping
from enum import IntEnum
from random import getrandbits
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Value: TypeAlias = str | int | float | bool

# What samplers decide by of a trace that begins here; those below `ParentBased` see no other.
_ROOT: Final = re.compile(
    r"(?:ParentBased\{root:)?"
    r"(?:(AlwaysOn)Sampler|(AlwaysOff)Sampler|TraceIdRatioBased\{([\d.e-]+)\})"
)
_IDS: Final = 1 << 64
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
    """Makes the spans of one program. Who is sampled is OpenTelemetry's to say."""

    def __init__(self, provider: "TracerProvider", keeper: Keeper, close_s: float) -> None:
        """Sample as `provider` does, and give what has ended to `keeper`.

        Args:
            provider: Has the environment's sampler.
            keeper: Sends spans; ended by `close`.
            close_s: What `close` grants the last spans.
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace.sampling import Decision

        self._keeper = keeper
        self._close_s = close_s
        self._should_sample = provider.sampler.should_sample
        self._bound = bound_of(provider.sampler.get_description())
        self._trace = trace
        self._kept = Decision.RECORD_AND_SAMPLE

    def keeps(
        self, trace_id: str, parent: str = "", name: str = "", kind: Kind = Kind.SERVER
    ) -> bool:
        """Tell whether somebody keeps a trace; asked before anything is made for it.

        Args:
            trace_id: Its id, 32 hexadecimal digits.
            parent: The valid `traceparent` by which it comes in; empty: it begins here.
            name: Of its first span here.
            kind: Of that span.
        """
        if self._bound is not None and not parent:
            return int(trace_id[16:], 16) < self._bound
        trace, context, number = self._trace, None, int(trace_id, 16)
        if parent:
            flags = trace.TraceFlags(int(parent[53:55], 16))
            far = trace.SpanContext(number, int(parent[36:52], 16), True, flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(far))
        asked = self._should_sample(context, number, name, trace.SpanKind(kind - 1))
        return asked.decision is self._kept

    def begin(
        self,
        name: str,
        parent: str | Span = "",
        *,
        start_ns: int | None = None,
        outward: bool | None = None,
        attributes: Mapping[str, Value] = _NOTHING,
        kept_trace_id: str = "",
    ) -> Span:
        """Begin a span; whoever begins it ends it.

        Args:
            name: Few of them; what differs stands in the attributes.
            parent: A span of this program, or the valid `traceparent` of another's; empty: this
                begins a trace.
            start_ns: Unix time at which it began; None: now.
            outward: True for a call on another program, False for one that is served, None within.
            attributes: What is known already.
            kept_trace_id: The id of a trace that begins here, of which `keeps` has said yes.
        """
        kind = Kind.INTERNAL if outward is None else Kind.CLIENT if outward else Kind.SERVER
        is_far, parent_id = False, ""
        if isinstance(parent, Span):
            trace_id, parent_id, sampled = parent.trace_id, parent.span_id, parent.sampled
        elif parent:
            trace_id, parent_id, is_far = parent[3:35], parent[36:52], True
            sampled = self.keeps(trace_id, parent, name, kind)
        else:
            trace_id = kept_trace_id or f"{random_id(128):032x}"
            sampled = bool(kept_trace_id) or self.keeps(trace_id, "", name, kind)
        return Span(
            self._keeper, name, trace_id, f"{random_id(64):016x}", parent_id,
            is_far=is_far, sampled=sampled, kind=kind,
            start_ns=time.time_ns() if start_ns is None else start_ns, attributes=attributes,
        )  # fmt: skip

    def close(self) -> None:
        """Send what is left, and stop; what a slow collector has not taken by then is lost."""
        # The exporter's own limits are longer than a program may take to end.
        last = threading.Thread(target=self._keeper.shutdown, daemon=True)
        last.start()
        last.join(self._close_s)


def bound_of(description: str) -> int | None:
    """Return below what the lower half of a trace's id is for a sampler to keep it.

    Args:
        description: What the sampler says of itself, in the words of OpenTelemetry's standard.

    Returns:
        None if it decides otherwise, or this cannot be told: then it must be asked.
    """
    found = _ROOT.match(description)
    if found is None:
        return None
    always, never, ratio = found.groups()
    if always or never:
        return _IDS if always else 0
    return round(float(ratio) * _IDS)


def random_id(bits: int) -> int:
    """Return an id of a trace or a span; never zero, which names none."""
    return getrandbits(bits) or 1
