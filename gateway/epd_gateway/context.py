"""Everything about one request while it is served."""

from dataclasses import dataclass

from epd.tracing import trace_id_of
from epd.wire.messages import EcHandle, KvHandle
from epd_gateway.answer import Answer
from epd_gateway.calls import Call
from epd_gateway.http import ResponseWriter
from epd_gateway.journal import RequestRecord
from epd_gateway.media import Image
from epd_gateway.openai import Envelope
from epd_gateway.request_trace import RequestTrace
from epd_gateway.workers import Worker


@dataclass(frozen=True, slots=True)
class Embedding:
    """An embedding that a worker keeps for us under a lease.

    Attributes:
        handle: Whoever takes it needs this.
        worker: Its owner.
        incarnation: The process that made it; another one knows nothing of it.
    """

    handle: EcHandle
    worker: Worker
    incarnation: str

    @property
    def kept(self) -> bool:
        """Whether its owner is still the process that made it, as far as is known."""
        description = self.worker.description
        return description is not None and description.incarnation == self.incarnation

    @property
    def alive(self) -> bool:
        """Whether its owner can still hand it over, as far as is known."""
        return self.worker.session is not None and self.kept


class DistinctImage:
    """One image of a request; the same content twice in a request is one of these.

    Attributes:
        image: Its content, kept until the request ends: a replay may need it again.
        key: What placement knows it by.
        embedding: Its embedding, once it is encoded; changed by `keep`.
        failed_on: Pods where encoding it failed.
    """

    __slots__ = ("embedding", "failed_on", "image", "key")

    def __init__(self, image: Image) -> None:
        self.image = image
        self.key = int(image.sha256_hex[:16], 16)
        self.embedding: Embedding | None = None
        self.failed_on: list[str] = []

    def keep(self, embedding: Embedding | None) -> None:
        """Have another embedding, or none; the lease on the one before is given up."""
        before, self.embedding = self.embedding, embedding
        # Each process counts its leases anew: another one may have given one of that name.
        if before is not None and before.kept:
            before.worker.release(before.handle)


class RequestContext:
    """One request. Only its own task writes here, the answer's callbacks apart.

    Attributes:
        envelope: What the client asked for.
        response: Where the answer goes.
        answer: Takes events, writes them out.
        record: What the journal keeps.
        trace_id: What workers log it under; unique, unlike the client's own id.
        traceparent: W3C name of the span that it belongs to; empty where there are no traces.
        trace: Its spans; None where traces are off.
        turn: Breaks the ties of its placements.
        limit_s: Monotonic time by which it must be done.
        images: Its images in the order of their references, repeats included.
        distinct_images: Each of them once.
        calls: Calls that may be in flight, with their workers; cancelled at the end.
        kv: A KV cache that is kept for us, and its owner; released unless a decode takes it.
        prefix_keys: What its prompt begins with; empty until it is placed.
        avoid: Pods where its generation failed.
        failures: How often prefill or decode failed before there was a token.
        replays: How often its answer was continued elsewhere.
        reencoded: Its embeddings were lost once already.
    """

    __slots__ = (
        "answer",
        "avoid",
        "began_s",
        "calls",
        "distinct_images",
        "envelope",
        "failures",
        "images",
        "kv",
        "limit_s",
        "prefix_keys",
        "record",
        "reencoded",
        "replays",
        "response",
        "trace",
        "trace_id",
        "traceparent",
        "turn",
    )

    def __init__(
        self,
        envelope: Envelope,
        response: ResponseWriter,
        answer: Answer,
        record: RequestRecord,
        trace_id: str,
        turn: int,
        limit_s: float,
        traceparent: str = "",
        trace: RequestTrace | None = None,
    ) -> None:
        self.envelope = envelope
        self.response = response
        self.answer = answer
        self.record = record
        self.trace_id = trace_id
        self.traceparent = traceparent
        self.trace = trace
        self.turn = turn
        self.limit_s = limit_s
        self.began_s = record.arrived_s
        self.images: tuple[DistinctImage, ...] = ()
        self.distinct_images: tuple[DistinctImage, ...] = ()
        self.calls: list[tuple[Worker, Call]] = []
        self.kv: tuple[Worker, KvHandle] | None = None
        self.prefix_keys: tuple[int, ...] = ()
        self.avoid: list[str] = []
        self.failures = 0
        self.replays = 0
        self.reencoded = False

    @property
    def kind(self) -> str:
        """Whether it has images, as label values say it."""
        return "1+" if self.envelope.images else "0"

    def log_fields(self) -> dict[str, str]:
        """Return what every line about this request says."""
        return {
            "request": self.trace_id,
            "client_request": self.record.request_id,
            "trace": trace_id_of(self.traceparent) if self.traceparent else self.trace_id,
        }

    def set_images(self, images: list[Image]) -> None:
        """Take the resolved images, in the order of their references."""
        distinct: dict[str, DistinctImage] = {}
        self.images = tuple(
            distinct.setdefault(image.sha256_hex, DistinctImage(image)) for image in images
        )
        self.distinct_images = tuple(distinct.values())
        self.record.images = len(images)

    def param_of(self, image: DistinctImage) -> str:
        """Return the path of the (first) field that holds an image."""
        return self.envelope.images[self.images.index(image)].param

    def unencoded(self) -> list[DistinctImage]:
        """Return the images that have no living embedding."""
        return [
            image
            for image in self.distinct_images
            if image.embedding is None or not image.embedding.alive
        ]

    def release_kv(self) -> None:
        """Give up the lease on the KV cache that nobody took."""
        if self.kv is not None:
            owner, handle = self.kv
            owner.release(handle)
            self.kv = None

    def cancel_calls(self) -> None:
        """Stop whatever still runs for this request."""
        for worker, call in self.calls:
            worker.cancel(call)
            call.let_go()
        self.calls.clear()
        self.answer.let_go()

    def release_embeddings(self) -> None:
        """Give up the leases on all embeddings, taken or not."""
        for image in self.distinct_images:
            image.keep(None)
