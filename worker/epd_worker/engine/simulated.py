"""The simulated engine: no model, but the queues, batches, handoffs and failures of one.

Timings come from cost curves (`simulated_curves`), tokens from a function of the request
(`simulated_answer`), so that gateway and control can be driven hard and every token checked.
What a handoff carries decides the tokens: a wrong embedding or KV cache shows in the text.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from hashlib import blake2b, sha256
from itertools import count
from time import monotonic
from typing import Any, TypeVar

from epd.wire.messages import (
    Completed,
    EcHandle,
    Encode,
    FailureKind,
    Generate,
    Image,
    KvHandle,
    Phase,
    Prefilled,
)
from epd_worker.engine import Emit, EngineDescription, EngineError, EngineLoad, StageClock
from epd_worker.engine.ec_leases import HANDLES, content_of, lease_name
from epd_worker.engine.settings import EngineSettings
from epd_worker.engine.simulated_answer import Answer
from epd_worker.engine.simulated_curves import load_curves
from epd_worker.engine.simulated_handoff import HandoffLostError, Kind, SideChannel
from epd_worker.engine.simulated_images import image_tokens
from epd_worker.engine.simulated_leases import Leases
from epd_worker.engine.simulated_prompt import Rendered, canonical_options, render
from epd_worker.engine.simulated_steps import Encoder, Job, KvPool, StepLoop

_SEED_BYTES = 16
_Result = TypeVar("_Result")


class _FailureInjector:
    """Fails every N-th piece of work of each kind; the settings' seed says which one of the N."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts: dict[str, int] = {}

    def count(self, kind: str, every: int, failure: FailureKind) -> None:
        """Count one piece of work; raises `EngineError(failure)` when it is its turn to fail."""
        if every:
            self._counts[kind] = self._counts.get(kind, self._seed) + 1
            if self._counts[kind] % every == 0:
                raise EngineError(failure, f"{kind} failed on purpose")


class SimulatedEngine:
    """An `Engine` without a model. `engine_args` are `section.key=value` for its curves."""

    def __init__(self, settings: EngineSettings) -> None:
        """Read the cost curves; raises `SettingsError` where they cannot be used."""
        self._settings = settings
        self._curves = load_curves(settings.cost_curves, settings.engine_args)
        capacity = self._curves.capacity
        identity = f"simulated {HANDLES}\n{settings.model}\n{capacity.pixels_once}"
        self._description = EngineDescription(
            model=settings.served_name,
            engine="simulated",
            compatibility_hash=sha256(identity.encode()).hexdigest()[:16],
            multimodal=capacity.max_images > 0,
            pixels_once=capacity.pixels_once,
            max_model_len=capacity.context_tokens,
            max_images=capacity.max_images,
            kv_capacity_tokens=capacity.kv_tokens,
        )
        self._is_open = False
        self._pool = KvPool(capacity.kv_tokens)
        self._kv = Leases(settings.kv_lease_s, self._pool.free)
        self._ec = Leases(settings.ec_lease_s, self._free_ec)
        self._ec_used_bytes = 0
        self._encoder = Encoder(self._curves)
        self._steps: StepLoop
        self._side_channel = SideChannel(self)
        self._kv_names = count()
        self._ec_leases = count()
        self._received_bytes = {Kind.EC: 0, Kind.KV: 0}
        self._injector = _FailureInjector(settings.seed)

    async def start(self) -> None:
        """Open the side channel."""
        host, port = self._settings.side_channel_host, self._settings.kv_side_channel_port
        try:
            await self._side_channel.open(host, port)
        except OSError as error:
            reason = error.strerror or error
            raise EngineError(
                FailureKind.INTERNAL, f"the side channel cannot listen on {host}:{port}: {reason}"
            ) from None
        self._steps = StepLoop(self._curves, self._pool)
        self._is_open = True

    def describe(self) -> EngineDescription:
        """Say what is simulated."""
        return self._description

    def load(self) -> EngineLoad:
        """Return the present load; `kv_used_permille` counts room reserved for output, too."""
        if not self._is_open:
            return EngineLoad()
        waiting = self._steps.waiting()
        prefills = [job.prefill_tokens for job in waiting if job.prefill_tokens]
        capacity = self._curves.capacity
        return EngineLoad(
            kv_used_permille=min(1000, self._pool.used_tokens * 1000 // capacity.kv_tokens),
            ec_used_permille=self._ec_used_bytes * 1000 // capacity.ec_bytes,
            kv_leases=len(self._kv),
            ec_leases=len(self._ec),
            running_tokens=self._steps.running_tokens,
            ec_received_bytes_total=self._received_bytes[Kind.EC],
            kv_received_bytes_total=self._received_bytes[Kind.KV],
            waiting_encode=self._encoder.waiting,
            waiting_prefill=len(prefills),
            waiting_decode=len(waiting) - len(prefills),
            waiting_prefill_tokens=sum(prefills),
        )

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        """Take the encoder's time for an image, keep its embedding under a lease."""
        self._require_open()
        self._injector.count("encode", self._curves.failures.encode_every, FailureKind.INTERNAL)
        content = work.image.content
        if not content:
            raise EngineError(FailureKind.INTERNAL, "an encode came without its image")
        options = canonical_options(work.processor_options)
        embedding = _embedding(content, options)
        identifier = embedding.hex()
        lease = lease_name(identifier, next(self._ec_leases))
        tokens = image_tokens(content)
        size_bytes = tokens * self._curves.handoff.ec_bytes_per_token
        if self._ec.payload(identifier) is None:
            await self._encoder.run(tokens, 0)
        if self._ec.payload(identifier) is None:  # nobody made the same one meanwhile
            if self._ec_used_bytes + size_bytes > self._curves.capacity.ec_bytes:
                raise EngineError(FailureKind.OVERLOADED, "the encoder cache is full of leases")
            self._ec_used_bytes += size_bytes
        self._ec.grant(identifier, embedding, size_bytes, lease)
        metadata = json.dumps({"tokens": tokens}).encode()
        return EcHandle(
            worker_id=self._settings.name,
            compatibility_hash=self._description.compatibility_hash,
            identifier=lease,
            metadata=metadata if self._description.pixels_once else b"",
            address=self._side_channel.address,
            size_bytes=size_bytes,
            tokens=tokens,
            lease_ms=round(self._settings.ec_lease_s * 1e3),
        )

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        """Run prefill, decode or both in engine steps; see `Engine.generate`."""
        self._require_open()
        self._count_generate(work.phase)
        rendered = self._render(work)
        clock.prompt_tokens = rendered.prompt_tokens
        emitted_tokens = len(work.emitted_token_ids) // 4
        if work.phase is Phase.DECODE and work.kv is not None:
            seed = await self._take_kv(work.kv, clock)
            prefill_tokens = 0
        else:
            embeddings = await self._embeddings(work.images, rendered, clock, priority)
            seed = _digest(bytes.fromhex(rendered.prompt_hash) + b"".join(embeddings))
            prefill_tokens = rendered.prompt_tokens + emitted_tokens
        answer = Answer(rendered, work, seed, self._description.model, emit)
        completed = Completed(rendered.prompt_tokens, answer.output_tokens)
        if answer.ended:
            return completed
        context_tokens = rendered.prompt_tokens + emitted_tokens
        first_only = work.phase is Phase.PREFILL
        most_tokens = rendered.prompt_tokens + answer.output_tokens
        handle = self._kv_handle(request_id, rendered.prompt_tokens)
        job = Job(
            prefill_tokens=prefill_tokens,
            context_tokens=context_tokens,
            reserved_tokens=context_tokens if first_only else most_tokens,
            advance=self._leasing(answer, handle, seed) if first_only else answer.step,
            first_only=first_only,
            done=asyncio.get_running_loop().create_future(),
        )
        try:
            answer_ended = await self._steps.run(job, priority)
        except asyncio.CancelledError:
            self._kv.remove(handle.identifier)
            raise
        return completed if answer_ended else Prefilled(handle, rendered.to_bytes())

    async def release(self, kv_identifiers: Sequence[str], ec_identifiers: Sequence[str]) -> None:
        """Free handles that nobody will take; an embedding stays while another holder is left."""
        for identifier in kv_identifiers:
            self._kv.remove(identifier)
        for identifier in ec_identifiers:
            self._ec.release(content_of(identifier), identifier)

    async def watch(self) -> str:
        """Wait for a death that does not come."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def close(self) -> None:
        """Fail what runs, free what is kept, hang up on the other workers."""
        if not self._is_open:
            return
        self._is_open = False
        self._steps.close()
        self._encoder.close()
        await self._side_channel.close()
        self._kv.clear()
        self._ec.clear()

    # --- the owner's end of the side channel (`simulated_handoff.Owner`) --------------------

    def handoff_s(self, kind: Kind, identifier: str) -> float | None:
        """Return how long handing over takes; None: nothing there."""
        leases, name = self._kept(kind, identifier)
        if leases.payload(name) is None:
            return None
        size = leases.size(name)
        curves = self._curves
        return curves.kv_handoff_s(size) if kind is Kind.KV else curves.ec_handoff_s(size)

    def hand_over(self, kind: Kind, identifier: str) -> bytes | None:
        """Return what is kept; a KV cache is freed with it, an embedding stays for others."""
        leases, name = self._kept(kind, identifier)
        payload = leases.payload(name)
        if kind is Kind.KV:
            leases.remove(name)
        return payload

    def _kept(self, kind: Kind, identifier: str) -> tuple[Leases, str]:
        """Return where something lies, and under which name; all holders share an embedding."""
        if kind is Kind.KV:
            return self._kv, identifier
        return self._ec, content_of(identifier)

    # --- parts of `generate` ------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._is_open:
            raise EngineError(FailureKind.SHUTTING_DOWN, "the engine is not running")

    def _count_generate(self, phase: Phase) -> None:
        failures = self._curves.failures
        if phase is not Phase.DECODE:
            self._injector.count("prefill", failures.prefill_every, FailureKind.INTERNAL)
        if phase is not Phase.PREFILL:
            self._injector.count("decode", failures.decode_every, FailureKind.INTERNAL)

    def _render(self, work: Generate) -> Rendered:
        if work.rendered:
            return Rendered.from_bytes(work.rendered)
        tokens = [
            image_tokens(image.content) if image.ec is None else image.ec.tokens
            for image in work.images
        ]
        context_tokens = self._curves.capacity.context_tokens
        return render(work.api, work.body, tokens, self._settings.model, context_tokens)

    def _leasing(self, answer: Answer, handle: KvHandle, seed: bytes) -> Callable[[], bool]:
        """Return a first step that leaves the KV cache under a lease if more steps follow."""

        def step() -> bool:
            ended = answer.step()
            if not ended:
                self._pool.reserve(handle.tokens)
                self._kv.grant(handle.identifier, seed, handle.tokens)
            return ended

        return step

    def _kv_handle(self, request_id: str, tokens: int) -> KvHandle:
        return KvHandle(
            worker_id=self._settings.name,
            compatibility_hash=self._description.compatibility_hash,
            identifier=f"{request_id}/{next(self._kv_names)}",
            address=self._side_channel.address,
            size_bytes=tokens * self._curves.handoff.kv_bytes_per_token,
            tokens=tokens,
            lease_ms=round(self._settings.kv_lease_s * 1e3),
        )

    async def _take_kv(self, handle: KvHandle, clock: StageClock) -> bytes:
        if handle.address == self._side_channel.address:
            self._require_compatible(handle)
            seed = self.hand_over(Kind.KV, handle.identifier)
            if seed is None:
                raise EngineError(FailureKind.HANDOFF_LOST, "the KV cache is no longer here")
            return seed
        return await self._fetch(handle, Kind.KV, clock)

    async def _embeddings(
        self, images: Sequence[Image], rendered: Rendered, clock: StageClock, priority: int
    ) -> list[bytes]:
        options = rendered.processor_options
        return await _all(
            self._embedding(index, image, options, clock, priority)
            for index, image in enumerate(images)
        )

    async def _embedding(
        self, index: int, image: Image, options: str, clock: StageClock, priority: int
    ) -> bytes:
        """Return an image's embedding: from another worker, from this one, or computed here."""
        if not image.content and not self._description.pixels_once:
            raise EngineError(
                FailureKind.INTERNAL, f"image {index} lacks the pixels that this model needs"
            )
        if image.ec is not None:
            if not image.local and image.ec.address != self._side_channel.address:
                return await self._fetch(image.ec, Kind.EC, clock)
            self._require_compatible(image.ec)
            kept = self._ec.payload(content_of(image.ec.identifier))
            if kept is not None:
                return kept
        if image.content:
            await self._encoder.run(image_tokens(image.content), priority)
            return _embedding(image.content, options)
        raise EngineError(
            FailureKind.HANDOFF_LOST, f"the embedding of image {index} is not in this worker"
        )

    async def _fetch(self, handle: EcHandle | KvHandle, kind: Kind, clock: StageClock) -> bytes:
        self._require_compatible(handle)
        every = self._curves.failures.handoff_every
        self._injector.count("handoff", every, FailureKind.HANDOFF_LOST)
        start_s = monotonic()
        try:
            payload = await self._side_channel.fetch(handle.address, kind, handle.identifier)
        except HandoffLostError as error:
            raise EngineError(
                FailureKind.HANDOFF_LOST, f"{kind.name} of worker {handle.worker_id}: {error}"
            ) from None
        clock.handoff_us = max(clock.handoff_us, round((monotonic() - start_s) * 1e6))
        self._received_bytes[kind] += handle.size_bytes
        return payload

    def _require_compatible(self, handle: EcHandle | KvHandle) -> None:
        own = self._description.compatibility_hash
        if handle.compatibility_hash != own:
            raise EngineError(
                FailureKind.INCOMPATIBLE,
                f"worker {handle.worker_id} has compatibility hash {handle.compatibility_hash}, "
                f"this one {own}",
            )

    def _free_ec(self, size_bytes: int) -> None:
        self._ec_used_bytes -= size_bytes


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_SEED_BYTES).digest()


def _embedding(content: bytes, options: str) -> bytes:
    return _digest(len(content).to_bytes(8, "little") + content + options.encode())


async def _all(work: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Await all; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
