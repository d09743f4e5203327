"""What gateways and workers say to one another, as plain data.

`worker.proto` defines the bytes, `codec` converts; nothing else knows protobuf. Durations carry
their unit in the name. Handles are minted by workers and passed on verbatim by the gateway.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

IMAGE_REFERENCE_PREFIX = "epd:image:"
"""In a forwarded body, the URL of the N-th image reads `epd:image:N`."""


class Phase(enum.IntEnum):
    """Which part of a generation a worker is asked to do."""

    WHOLE = 1
    PREFILL = 2
    DECODE = 3


class Api(enum.IntEnum):
    """The OpenAI endpoint that the body was sent to."""

    CHAT_COMPLETIONS = 1
    COMPLETIONS = 2


class FailureKind(enum.IntEnum):
    """Why a worker did not finish a stage; decides whether the gateway may try elsewhere."""

    REFUSED = 1
    HANDOFF_LOST = 2
    INCOMPATIBLE = 3
    OVERLOADED = 4
    INTERNAL = 5
    SHUTTING_DOWN = 6


@dataclass(frozen=True, slots=True)
class EcHandle:
    """An embedding in a worker's encoder cache, kept for `lease_ms` for whoever takes it.

    `identifier` names this lease: two requests with the same image have two on one embedding.
    `metadata` (JSON) is what later stages need instead of pixels; empty: they need the pixels.
    `address` (JSON) is opaque outside the engine.
    """

    worker_id: str
    compatibility_hash: str
    identifier: str
    metadata: bytes = b""
    address: bytes = b""
    size_bytes: int = 0
    tokens: int = 0
    lease_ms: int = 0


@dataclass(frozen=True, slots=True)
class KvHandle:
    """The KV cache of a prefilled prompt, kept for `lease_ms` for whoever takes it."""

    worker_id: str
    compatibility_hash: str
    identifier: str
    address: bytes = b""
    size_bytes: int = 0
    tokens: int = 0
    lease_ms: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a request: its pixels, its embedding's handle, or both.

    `local` goes with a handle that this very worker gave: the embedding is taken from its own
    cache, and nothing is fetched.
    """

    content: bytes = b""
    media_type: str = ""
    ec: EcHandle | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Encode:
    """Compute one image's embedding and keep it under a lease."""

    image: Image
    processor_options: bytes = b""


@dataclass(frozen=True, slots=True)
class Generate:
    """Prefill, decode, or both; see `Generate` in worker.proto for each field."""

    phase: Phase
    api: Api
    body: bytes
    images: Sequence[Image] = ()
    stream: bool = False
    http_chunks: bool = False
    response_id: str = ""
    created_s: int = 0
    kv: KvHandle | None = None
    rendered: bytes = b""
    emitted_token_ids: bytes = b""


@dataclass(frozen=True, slots=True)
class Submit:
    """One piece of work under a stream number that the gateway chose.

    `traceparent` (W3C) names the span that it belongs to; empty: none.
    """

    stream: int
    request_id: str
    work: Encode | Generate
    priority: int = 0
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class GatewayFrame:
    """All that a gateway has to say to a worker in one turn of its loop."""

    submits: Sequence[Submit] = ()
    cancels: Sequence[int] = ()
    release_kv: Sequence[str] = ()
    release_ec: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The first token was emitted; `kv` and `rendered` let a decode go on elsewhere."""

    kv: KvHandle
    rendered: bytes = b""


@dataclass(frozen=True, slots=True)
class Completed:
    """The generation ended; every client byte was emitted."""

    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A stage ended without its result. `message` never holds prompt text."""

    kind: FailureKind
    message: str
    status: int = 0
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stream ended on this worker."""

    stream: int
    result: EcHandle | Prefilled | Completed | Failure
    service_us: int = 0
    handoff_us: int = 0


@dataclass(slots=True)
class WorkerFrame:
    """One engine step of one session, as parallel arrays (see worker.proto)."""

    streams: Sequence[int] = field(default_factory=list)
    sizes: Sequence[int] = field(default_factory=list)
    token_counts: Sequence[int] = field(default_factory=list)
    payload: bytes = b""
    token_ids: bytes = b""
    outcomes: Sequence[Outcome] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What a worker is. Equal `compatibility_hash` is the condition for any handoff."""

    worker_id: str
    incarnation: str
    model: str
    engine: str
    compatibility_hash: str
    ready: bool = False
    multimodal: bool = False
    pixels_once: bool = False
    max_model_len: int = 0
    max_images: int = 0
    kv_capacity_tokens: int = 0
    process_id: int = 0


@dataclass(frozen=True, slots=True)
class StageLoad:
    """Work of one stage on one worker: now, and since its start."""

    waiting: int = 0
    running: int = 0
    started_total: int = 0
    finished_total: int = 0
    failed_total: int = 0
    cancelled_total: int = 0
    service_us_total: int = 0
    tokens_total: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker is doing; the fields are those of worker.proto."""

    encode: StageLoad = StageLoad()
    prefill: StageLoad = StageLoad()
    decode: StageLoad = StageLoad()
    running_tokens: int = 0
    waiting_prefill_tokens: int = 0
    kv_used_permille: int = 0
    ec_used_permille: int = 0
    kv_leases: int = 0
    ec_leases: int = 0
    ec_received_bytes_total: int = 0
    kv_received_bytes_total: int = 0
