"""The `vllm` engine: vLLM 0.32 in process, any stage of any request at any time.

One `AsyncLLM` per worker, with KV and encoder cache both handed off by NIXL. Rendering, sampling
parameters, tool and reasoning parsing and the client's bytes are vLLM's own OpenAI layer, run
here; `vllm_call` bends it to one stage of a request, `vllm_core` teaches the engine core to encode
without a language-model step and to go on after another engine's tokens.
"""

import asyncio
import contextlib
import json
import time
from array import array
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from pydantic import ValidationError

from epd.wire.messages import (
    Api,
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
from epd_worker.engine import (
    Emit,
    EngineDescription,
    EngineError,
    EngineLoad,
    StageClock,
    vllm_body,
    vllm_refusal,
)
from epd_worker.engine.ec_leases import content_of
from epd_worker.engine.settings import EngineSettings
from epd_worker.engine.vllm_load import LoadWatch

DEATH_POLL_S = 0.5
TICK_S = 0.5


class VllmEngine:
    """`Engine` over vLLM; see the protocol for the contract of each method."""

    def __init__(self, settings: EngineSettings) -> None:
        """Remember the settings; nothing of vLLM is imported before `start`."""
        self._settings = settings
        self._runtime: Any = None
        self._active = 0
        self._load = LoadWatch(self._sample_load, lambda: self._active > 0)
        self._ticks: asyncio.Task[None] | None = None
        self._sequence = 0

    async def start(self) -> None:
        """Load the model (10 s for a tiny one, minutes for a large one)."""
        from epd_worker.engine import vllm_runtime

        self._runtime = await vllm_runtime.start(self._settings)
        await self._warm_up()
        self._ticks = asyncio.create_task(self._tick())

    def describe(self) -> EngineDescription:
        """Say what was loaded."""
        description: EngineDescription = self._runtime.description
        return description

    def load(self) -> EngineLoad:
        """Return the last known load; refreshed while there is work or anything is kept."""
        return self._load.latest

    async def encode(self, request_id: str, work: Encode, clock: StageClock) -> EcHandle:
        """Compute one embedding; the language model does not run."""
        from vllm.sampling_params import SamplingParams

        from epd_worker.engine import vllm_call, vllm_core

        call = self._call(request_id, Phase.WHOLE, 0, images=[work.image.content])
        with self._busy(call):
            try:
                request = self._runtime.chat_request(
                    vllm_body.chat_for_encode(self.describe().model, work.processor_options)
                )
                rendered = await self._runtime.render_chat(request)
            except Exception as error:
                raise self._refusal(error, call) from error
            params = SamplingParams(max_tokens=1, extra_args={vllm_core.ENCODE_ONLY: True})
            announced: dict[str, Any] = {}
            reason = None
            headers = vllm_call.trace_headers()
            async for output in self._runtime.engine.generate(
                rendered, params, call.request_id, trace_headers=headers
            ):
                announced = output.ec_transfer_params or {}
                reason = output.outputs[0].finish_reason
            if reason == "error" or not announced:
                raise EngineError(FailureKind.OVERLOADED, "no room in the encoder cache")
            return self._ec_handle(announced)

    async def generate(
        self, request_id: str, work: Generate, emit: Emit, clock: StageClock, priority: int
    ) -> Prefilled | Completed:
        """Run one phase through vLLM's OpenAI layer."""
        from epd_worker.engine import vllm_call

        call = self._call(request_id, work.phase, priority)
        call.clock = clock
        call.created_s = work.created_s
        call.emit = None if work.stream else emit
        self._take_handles(call, work)
        fields = vllm_body.request_fields(work, call.ec_params or {})
        call.images = [image.content for image in work.images]
        with self._busy(call):
            result: Prefilled | Completed
            try:
                result = await self._answer(call, work, fields, emit)
            except vllm_call.EngineFailed as failure:
                raise self._failure(work, failure.reason) from None
            except vllm_call.StageEnded:
                emit(b"", call.take_tokens())
                result = self._prefilled(call)
            finally:
                clock.handoff_us = round(1e6 * call.waited_s) if self._handed_off(work) else 0
            if isinstance(result, Completed) and call.phase is Phase.PREFILL and call.produced_kv:
                await self.release([call.produced_kv["remote_request_id"]], [])
            return result

    async def release(self, kv_identifiers: Sequence[str], ec_identifiers: Sequence[str]) -> None:
        """Free handles that nobody will take."""
        core = self._runtime.engine.engine_core
        await core.call_utility_async("epd_release", list(kv_identifiers), list(ec_identifiers))
        self._load.wake()

    async def watch(self) -> str:
        """Return when the engine core has died."""
        while not self._runtime.engine.errored:  # noqa: ASYNC110 - vLLM offers no event
            await asyncio.sleep(DEATH_POLL_S)
        return "the vLLM engine core died; its log says why"

    async def close(self) -> None:
        """Stop the engine core and forget it."""
        self._load.close()
        if self._ticks is not None:
            self._ticks.cancel()
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await asyncio.to_thread(runtime.shutdown)

    async def _answer(
        self, call: Any, work: Generate, fields: dict[str, Any], emit: Emit
    ) -> Completed:
        from epd_worker.engine import vllm_call

        try:
            answer = await self._runtime.create(work.api, fields)
            if not hasattr(answer, "__aiter__"):
                if self._runtime.is_error(answer):
                    raise self._refused(answer, fields)
                emit(answer.model_dump_json().encode(), call.take_tokens())
            else:
                await _pump(answer, call, emit, http_chunks=work.http_chunks)
        except (EngineError, asyncio.CancelledError):
            raise
        except vllm_call.EngineRaised as raised:
            raise self._refusal(raised.error, call, fields) from raised.error
        except Exception as error:
            raise self._refusal(error, call, fields) from error
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # vLLM's one-shot generator swallows it
        return Completed(call.prompt_tokens, call.output_tokens + len(call.prior))

    async def _warm_up(self) -> None:
        """Run each path once: the first step, log probability and image take vLLM seconds."""
        body = {"model": self.describe().model, "prompt": "go", "max_tokens": 2, "logprobs": 1}
        work = Generate(Phase.WHOLE, Api.COMPLETIONS, json.dumps(body).encode())
        await self.generate("warm-up", work, _discard, StageClock(), 0)
        if self.describe().max_images:
            image = Image(vllm_body.blank_png(), "image/png")
            embedding = await self.encode("warm-up", Encode(image), StageClock())
            await self.release([], [embedding.identifier])

    def _call(
        self, request_id: str, phase: Phase, priority: int, images: list[bytes] | None = None
    ) -> Any:
        from epd_worker.engine import vllm_call

        self._sequence += 1  # a retried stage must not meet its own leftovers
        engine_request_id = f"{request_id}-{self._sequence}"
        return vllm_call.Call(engine_request_id, phase, priority, images=images or [])

    def _busy(self, call: Any) -> "_Busy":
        return _Busy(self, call)

    def _take_handles(self, call: Any, work: Generate) -> None:
        from epd_worker.engine import vllm_rendered

        own = self.describe().compatibility_hash
        handles: list[EcHandle | KvHandle] = [i.ec for i in work.images if i.ec is not None]
        if work.kv is not None:
            handles.append(work.kv)
        for handle in handles:
            if handle.compatibility_hash != own:
                raise EngineError(
                    FailureKind.INCOMPATIBLE,
                    f"{handle.worker_id} runs another model or engine; handoff refused",
                )
        for handle in handles:
            # vLLM reads blocks whose lease has ended as if it had not.
            if time.time() - json.loads(handle.address)["issued_s"] > handle.lease_ms / 1000:
                raise EngineError(FailureKind.HANDOFF_LOST, "the lease has ended")
        call.prior = array("I", work.emitted_token_ids).tolist()
        call.ec_params = self._ec_params(work.images)
        if work.kv is not None:
            call.kv_params = json.loads(work.kv.address)
        if work.rendered:
            try:
                rendered = vllm_rendered.load(work.rendered)
            except ValueError as error:
                raise EngineError(FailureKind.HANDOFF_LOST, str(error)) from None
            call.first_logprobs = rendered.first_logprobs
            if work.kv is not None:  # else images may be needed, which are not in there
                call.rendered = rendered

    def _ec_params(self, images: Sequence[Image]) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for image in images:
            if image.ec is None:
                continue
            entry = {"metadata": json.loads(image.ec.metadata or b"{}")}
            if image.ec.worker_id != self._settings.name:
                entry |= json.loads(image.ec.address)
            params[content_of(image.ec.identifier)] = entry
        return params

    def _ec_handle(self, announced: dict[str, Any]) -> EcHandle:
        ((lease, entry),) = announced.items()
        metadata = entry.pop("metadata")
        address = {k: entry[k] for k in ("peer_host", "peer_port", "size_bytes", "shape")}
        address["issued_s"] = time.time()
        return EcHandle(
            worker_id=self._settings.name,
            compatibility_hash=self.describe().compatibility_hash,
            identifier=lease,
            metadata=json.dumps(metadata).encode() if metadata else b"",
            address=json.dumps(address).encode(),
            size_bytes=address["size_bytes"],
            tokens=address["shape"][0],
            lease_ms=round(1000 * self._settings.ec_lease_s),
        )

    def _prefilled(self, call: Any) -> Prefilled:
        from epd_worker.engine import vllm_rendered

        params = call.produced_kv
        if params is None:
            raise EngineError(FailureKind.INTERNAL, "the engine kept no KV cache")
        kv = KvHandle(
            worker_id=self._settings.name,
            compatibility_hash=self.describe().compatibility_hash,
            identifier=params["remote_request_id"],
            address=json.dumps(params | {"issued_s": time.time()}).encode(),
            size_bytes=params["remote_num_tokens"] * self._runtime.kv_bytes_per_token,
            tokens=params["remote_num_tokens"],
            lease_ms=1000 * self._runtime.kv_lease_s,
        )
        return Prefilled(kv, vllm_rendered.dump(call.rendered, self._runtime.metadata_fields))

    def _handed_off(self, work: Generate) -> bool:
        own = self._settings.name
        return work.kv is not None or any(i.ec and i.ec.worker_id != own for i in work.images)

    def _failure(self, work: Generate, reason: str) -> EngineError:
        if self._handed_off(work) or any(image.local for image in work.images):
            return EngineError(FailureKind.HANDOFF_LOST, "the handed-off cache could not be read")
        return EngineError(FailureKind.INTERNAL, f"the engine ended the request: {reason}")

    def _refusal(self, error: Exception, call: Any, fields: Collection[str] = ()) -> EngineError:
        """Return what an exception of vLLM's means; `fields` are those of the client's body."""
        if isinstance(error, ValidationError):
            return vllm_refusal.of_validation(error)
        if isinstance(error.__cause__, OverflowError):  # a number too large to reach the core
            error = error.__cause__
        if isinstance(error, vllm_refusal.UNEXPECTED_FORM) and not call.submissions:
            return vllm_refusal.of_unexpected_form()
        return self._refused(self._runtime.error(error), fields)

    def _refused(self, response: Any, fields: Collection[str]) -> EngineError:
        error = response.error
        return vllm_refusal.of_response(int(error.code), error.message, error.param, fields)

    async def _tick(self) -> None:
        """Have the core serve peers now and then, whatever else it does (`vllm_core`)."""
        from vllm.v1.engine.exceptions import EngineDeadError

        with contextlib.suppress(EngineDeadError):  # `watch` tells
            while self._runtime is not None:
                await self._runtime.engine.engine_core.call_utility_async("epd_tick")
                await asyncio.sleep(TICK_S)

    async def _sample_load(self) -> EngineLoad | None:
        """Ask the engine core; None once it is gone."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._runtime is None:
            return None
        try:
            load = await self._runtime.engine.engine_core.call_utility_async("epd_load")
        except EngineDeadError:
            return None  # `watch` tells
        received = self._runtime.received_kv.bytes_total
        return EngineLoad(**load, kv_received_bytes_total=received)


class _Busy:
    """Marks a stage as running and makes its call the task's `CURRENT`."""

    def __init__(self, engine: VllmEngine, call: Any) -> None:
        self._engine = engine
        self._call = call
        self._token: Any = None

    def __enter__(self) -> None:
        from epd_worker.engine import vllm_call

        self._token = vllm_call.CURRENT.set(self._call)
        self._engine._active += 1
        self._engine._load.wake()

    def __exit__(self, *_: object) -> None:
        from epd_worker.engine import vllm_call

        self._engine._active -= 1
        vllm_call.CURRENT.reset(self._token)


def _discard(payload: bytes, token_ids: bytes) -> None:
    """Take an emission that nobody waits for."""


async def _pump(chunks: AsyncIterator[str], call: Any, emit: Emit, *, http_chunks: bool) -> None:
    """Pass on the client's bytes; drop what the client has had already."""
    async for chunk in chunks:
        if call.live:
            data = chunk.encode()
            if http_chunks:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            emit(data, call.take_tokens())
