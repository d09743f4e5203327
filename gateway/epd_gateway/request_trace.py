"""The spans of one request: its own, and one for each call of a stage.

Only made where traces are on; what is off costs a comparison.
"""

from typing import Final

from epd.tracing import Span, Tracing
from epd_gateway.journal import RequestRecord, StageRecord

_FIRST_FAILURE_STATUS: Final = 500


class RequestTrace:
    """The spans of a request that is being served, where somebody keeps them."""

    __slots__ = ("_open", "_root", "_tracing")

    def __init__(self, tracing: Tracing, root: Span, request_id: str) -> None:
        """Go on below `root`, the request's own span."""
        self._tracing = tracing
        self._root = root
        self._open: dict[str, Span] = {}
        root.set_attributes({"epd.request_id": request_id})

    def begin(self, stage: str, pod: str, *, attempt: int, overflow: bool, replay: bool) -> str:
        """Begin the span of a call on a pod; return the `traceparent` that goes along."""
        span = self._tracing.begin(
            stage,
            self._root,
            outward=True,
            attributes={
                "epd.stage": stage,
                "epd.pod": pod,
                "epd.attempt": attempt,
                "epd.overflow": overflow,
                "epd.replay": replay,
            },
        )
        name = span.traceparent
        self._open[name] = span
        return name

    def end(self, name: str, record: StageRecord | None, failure: str = "") -> None:
        """End the span that `begin` named, as `record` tells; harmless if it has ended."""
        span = self._open.pop(name, None)
        if span is None:
            return
        if record is not None:
            span.set_attributes(
                {
                    "epd.service_ms": record.service_us / 1e3,
                    "epd.handoff_ms": record.handoff_us / 1e3,
                }
            )
            failure = failure or record.failure
        if failure:
            span.fail(failure)
        span.end()

    def conclude(self, record: RequestRecord) -> None:
        """End everything that is left, and the request's span."""
        for name in list(self._open):
            self.end(name, None, "cancelled")
        span = self._root
        span.set_attributes(
            {
                "http.response.status_code": record.status,
                "epd.response_id": record.response_id,
                "epd.images": record.images,
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.output_tokens": record.output_tokens,
            }
        )
        if record.first_token_s is not None:
            ttft_ms = 1e3 * (record.first_token_s - record.arrived_s)
            span.set_attributes({"epd.ttft_ms": round(ttft_ms, 3)})
        if record.status >= _FIRST_FAILURE_STATUS:
            span.fail(str(record.status))
        span.end()
