"""What a worker needs of an engine: any stage of any request, at any time.

Two engines implement `Engine` and pass one contract suite (`tests/contract`): `vllm` and
`simulated`. The service turns wire messages into these calls, one task per stage of a request;
what an engine emits per token goes through a plain callback, never through a task or a queue.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from epd.wire.messages import Completed, EcHandle, Encode, FailureKind, Generate, Prefilled

TRACEPARENT: Final[ContextVar[str]] = ContextVar("traceparent", default="")
"""Names the span of the present task's work, below which an engine may put its own; empty: none."""


class Emit(Protocol):
    """Takes what one engine step produced for one stream. Never blocks, never raises."""

    def __call__(self, payload: bytes, token_ids: bytes) -> None:
        """Pass on the client's bytes and the tokens (u32 little endian) behind them.

        `payload` may be empty: text held back for a stop string, or an answer in one piece, whose
        tokens come one by one all the same. They are its signs of life; of several choices these
        may lack the tokens, too.
        """
        ...


class EngineError(Exception):
    """A stage could not be done. The only exception that engine calls raise on purpose.

    `message` never holds prompt text. `status` and `body` (OpenAI error JSON) are the client's
    answer where `kind` is REFUSED.
    """

    def __init__(
        self, kind: FailureKind, message: str, *, status: int = 0, body: bytes = b""
    ) -> None:
        """Build the error; see the class for the fields."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """The model-dependent part of `messages.Description`."""

    model: str
    engine: str
    compatibility_hash: str
    multimodal: bool
    pixels_once: bool
    max_model_len: int
    max_images: int
    kv_capacity_tokens: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What only the engine knows of its load; the service counts the rest."""

    kv_used_permille: int = 0
    ec_used_permille: int = 0
    kv_leases: int = 0
    ec_leases: int = 0
    running_tokens: int = 0
    ec_received_bytes_total: int = 0
    kv_received_bytes_total: int = 0
    waiting_encode: int = 0
    """Of the work handed to the engine: images that the encoder has not begun."""
    waiting_prefill: int = 0
    waiting_decode: int = 0
    waiting_prefill_tokens: int = 0


@dataclass(slots=True)
class StageClock:
    """Filled in by the engine while it works on one stage; read by the service afterwards."""

    handoff_us: int = 0
    """Time spent waiting for EC or KV of another worker."""
    prompt_tokens: int = 0
    """Of a generation's prompt; known before its first token is emitted."""


class Engine(Protocol):
    """Runs one model in any stage. Calls never block the event loop.

    A call that is cancelled (its task) frees everything it holds, within a second, before the
    cancellation is re-raised or soon after. `EngineError` is the only expected exception.
    """

    async def start(self) -> None:
        """Load the model. Raises `EngineError(INTERNAL)` with a one-line reason on failure."""
        ...

    def describe(self) -> EngineDescription:
        """Say what was loaded; valid after `start`."""
        ...

    def load(self) -> EngineLoad:
        """Return the present load; cheap."""
        ...

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        """Compute one embedding without running the language model; keep it under a lease."""
        ...

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        """Run `work.phase`, emitting the client's bytes in order.

        PREFILL emits the first token and returns `Prefilled`, or `Completed` where that token
        ended the answer. WHOLE and DECODE return `Completed`. A DECODE continues after
        `work.emitted_token_ids` with nothing lost or doubled; without `work.kv` it computes the
        KV cache anew.
        """
        ...

    async def release(self, kv_identifiers: Sequence[str], ec_identifiers: Sequence[str]) -> None:
        """Free handles that nobody will take; unknown ones are ignored."""
        ...

    async def watch(self) -> str:
        """Return only if the engine dies by itself, with a one-line reason."""
        ...

    async def close(self) -> None:
        """Stop the engine; leave no process, no file, no shared memory. Idempotent."""
        ...
