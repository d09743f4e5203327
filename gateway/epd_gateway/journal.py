"""What happened to the last requests: which pod served which stage, and how long it took."""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from epd.vocabulary import Method, Stage
from epd.wire.messages import Phase

_CAPACITY: Final = 1024
_METHODS: Final = {
    # (encode beside prefill, encode beside decode, prefill beside decode)
    (True, True, True): Method.EPD,
    (True, False, False): Method.EP_D,
    (False, True, False): Method.ED_P,
    (False, False, False): Method.E_P_D,
}


@dataclass(slots=True)
class StageRecord:
    """One call of one stage.

    Attributes:
        stage: The stage it began with.
        phase: What was asked of the worker; None for encode.
        worker: The pod.
        started_s: Monotonic time of its submission.
        attempt: Times this stage had been tried, this one included.
        overflow: The pod's role does not offer the stage.
        decode_started_s: Monotonic time at which a call for both stages reached decode, or None.
        ended_s: Monotonic time of its end; None before.
        service_us: Time on the worker.
        handoff_us: Of which waiting for a handoff.
        failure: Why it failed; empty if it did not.
    """

    stage: Stage
    phase: Phase | None
    worker: str
    started_s: float
    attempt: int = 1
    overflow: bool = False
    decode_started_s: float | None = None
    ended_s: float | None = None
    service_us: int = 0
    handoff_us: int = 0
    failure: str = ""

    def to_json(self, origin_s: float) -> list[dict[str, Any]]:
        """Return one entry a stage, with times in milliseconds; `started_ms` is since `origin_s`.

        A call for both stages gives two entries. What is not spent on the worker is queueing: here,
        on the way, and there.
        """
        duration_ms = _ms_between(self.started_s, self.ended_s)
        service_ms = self.service_us / 1000
        entry = {
            "stage": self.stage,
            "phase": None if self.phase is None else self.phase.name.lower(),
            "pod": self.worker,
            "attempt": self.attempt,
            "overflow": self.overflow,
            "started_ms": _ms_between(origin_s, self.started_s),
            "duration_ms": duration_ms,
            "queue_ms": None if duration_ms is None else round(max(0, duration_ms - service_ms), 3),
            "service_ms": round(service_ms, 3),
            "handoff_ms": self.handoff_us / 1000,
            "failure": self.failure or None,
        }
        if self.decode_started_s is None:
            return [entry]
        decode = {
            **entry,
            "stage": Stage.DECODE,
            "started_ms": _ms_between(origin_s, self.decode_started_s),
            "duration_ms": _ms_between(self.decode_started_s, self.ended_s),
            "queue_ms": 0.0,
            "handoff_ms": 0.0,
        }
        entry["duration_ms"] = _ms_between(self.started_s, self.decode_started_s)
        entry["failure"] = None
        return [entry, decode]


@dataclass(slots=True)
class RequestRecord:
    """The life of one request.

    Attributes:
        request_id: The `x-request-id` it was served under.
        response_id: The id in its answer.
        api: The endpoint.
        arrived_s: Monotonic time of its arrival.
        created_s: Unix time of its arrival.
        images: Number of images.
        stages: The calls made for it, in order.
        first_token_s: Monotonic time of the first token; None before.
        ended_s: Monotonic time of its end; None before.
        status: HTTP status; 0 before, 499 if the client left.
        prompt_tokens: As the worker counted.
        output_tokens: As the worker counted.
    """

    request_id: str
    response_id: str
    api: str
    arrived_s: float
    created_s: int
    images: int = 0
    stages: list[StageRecord] = field(default_factory=list)
    first_token_s: float | None = None
    ended_s: float | None = None
    status: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def method(self) -> Method | None:
        """How the stages that succeeded were split; None before prefill and decode are done.

        A request without images counts by prefill and decode alone: EPD or EP-D.
        """
        encodes: set[str] = set()
        prefill = decode = ""
        for record in self.stages:
            if record.failure or record.ended_s is None:
                continue
            if record.stage is Stage.ENCODE:
                encodes.add(record.worker)
            elif record.phase is Phase.PREFILL:
                prefill = record.worker
            else:
                decode = record.worker
                prefill = prefill if record.phase is Phase.DECODE and prefill else record.worker
        if not prefill:
            return None
        decode = decode or prefill
        encodes = encodes or {prefill}
        beside_prefill, beside_decode = encodes == {prefill}, encodes == {decode}
        together = prefill == decode
        if together and not beside_prefill:
            return Method.E_P_D
        return _METHODS[beside_prefill, beside_decode, together]

    def to_json(self) -> dict[str, Any]:
        """Return the record with times in milliseconds since the arrival."""
        return {
            "request_id": self.request_id,
            "response_id": self.response_id,
            "api": self.api,
            "created": self.created_s,
            "status": self.status or None,
            "method": self.method,
            "images": self.images,
            "ttft_ms": _ms_between(self.arrived_s, self.first_token_s),
            "duration_ms": _ms_between(self.arrived_s, self.ended_s),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "stages": [entry for record in self.stages for entry in record.to_json(self.arrived_s)],
        }


def _ms_between(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else round(1000 * (end_s - start_s), 3)


class Journal:
    """The last requests, found by response id or request id."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        """Keep `capacity` requests."""
        self._capacity = capacity
        self._by_response: OrderedDict[str, RequestRecord] = OrderedDict()
        self._by_request: dict[str, RequestRecord] = {}

    def add(self, record: RequestRecord) -> None:
        """Keep a request, and forget the oldest if there are too many."""
        self._by_response[record.response_id] = record
        self._by_request[record.request_id] = record
        if len(self._by_response) > self._capacity:
            _, oldest = self._by_response.popitem(last=False)
            if self._by_request.get(oldest.request_id) is oldest:
                del self._by_request[oldest.request_id]

    def newest(self, count: int) -> list[RequestRecord]:
        """Return the last `count` requests, the newest first."""
        return list(islice(reversed(self._by_response.values()), count))

    def find(self, identifier: str) -> RequestRecord | None:
        """Return the request with this response id or (the last one with this) request id."""
        return self._by_response.get(identifier) or self._by_request.get(identifier)
