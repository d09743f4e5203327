"""One stage of one request inside vLLM's OpenAI layer.

vLLM's serving classes stay as they are. They call `client.generate` of an engine client and
`render_*_async` of a renderer; both are ours (`StageClient`, `StageRenderer`) and consult the
`Call` of the present task: which images stand behind the references in the body, where EC and KV
come from, which tokens the client has had already, and where this stage ends.
"""

import asyncio
import contextvars
import dataclasses
import time
from array import array
from collections.abc import AsyncIterator
from typing import Any

from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.output_processor import RequestState

from epd.tracing import collector
from epd.wire.messages import IMAGE_REFERENCE_PREFIX, Phase
from epd_worker.engine import TRACEPARENT, Emit, StageClock, vllm_core
from epd_worker.engine.vllm_rendered import Rendered

MEDIA_CONNECTOR_NAME = "epd"
_TRANSFER_PARAMS = frozenset({"kv_transfer_params", "ec_transfer_params"})
_NOT_KEPT = f"00-{1:032x}-{1:016x}-00"
"""A trace that nobody keeps: told of none, vLLM would begin one of its own."""

CURRENT: contextvars.ContextVar["Call"] = contextvars.ContextVar("epd_call")


class StageEnded(BaseException):
    """The stage ended before the answer did. Passes vLLM's own `except Exception`."""


class EngineFailed(BaseException):
    """The engine could not finish the request; `reason` is vLLM's finish reason."""

    def __init__(self, reason: str) -> None:
        """Keep vLLM's finish reason."""
        super().__init__(reason)
        self.reason = reason


class EngineRaised(BaseException):
    """The engine raised `error`, of which vLLM's formatters would make an event of the stream."""

    def __init__(self, error: Exception) -> None:
        """Keep the exception."""
        super().__init__(type(error).__name__)
        self.error = error


@dataclasses.dataclass(slots=True)
class Call:
    """The state of one stage of one request; written and read by this module and `vllm`."""

    request_id: str
    phase: Phase
    priority: int = 0
    clock: StageClock = dataclasses.field(default_factory=StageClock)
    created_s: int = 0
    images: list[bytes] = dataclasses.field(default_factory=list)
    ec_params: dict[str, Any] | None = None
    kv_params: dict[str, Any] | None = None
    prior: list[int] = dataclasses.field(default_factory=list)
    rendered: Rendered | None = None
    """Given (decode) or filled in while rendering (prefill)."""
    first_logprobs: list[dict[int, Any]] | None = None
    """Given (decode): those of the first of the prior tokens."""
    live: bool = False
    """False while vLLM formats what the client has had already."""
    prior_text: list[str] = dataclasses.field(default_factory=list)
    new_tokens: "array[int]" = dataclasses.field(default_factory=lambda: array("I"))
    produced_kv: dict[str, Any] | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    submissions: int = 0
    waited_s: float = 0.0
    """From submission until the engine first scheduled it; EC and KV arrive in that time."""
    emit: Emit | None = None
    """Where the tokens of an answer in one piece go as they come; its bytes come at its end."""
    told: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many tokens of each engine request have gone there."""

    def tell(self, state: RequestState, new_tokens: list[int]) -> None:
        """Pass new tokens on; of one answer among several (n > 1) only that it makes progress."""
        if self.emit is None:
            return
        if state.parent_req is not None:
            self.emit(b"", b"")
            return
        request_id = state.external_req_id
        self.told[request_id] = self.told.get(request_id, 0) + len(new_tokens)
        self.emit(b"", array("I", new_tokens).tobytes())

    def take_tokens(self) -> bytes:
        """Return the tokens since the last call, as u32 little endian."""
        taken = self.new_tokens.tobytes()
        del self.new_tokens[:]
        return taken


def trace_headers() -> dict[str, str] | None:
    """Return below which span vLLM puts its own, as the headers it takes; None: no traces."""
    return {"traceparent": TRACEPARENT.get() or _NOT_KEPT} if collector() else None


class StageClient:
    """vLLM's engine client with `generate` bent to the present `Call`."""

    def __init__(self, engine: Any) -> None:
        """Wrap an `AsyncLLM`."""
        self._engine = engine
        self.renderer = StageRenderer(engine.renderer)

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the engine."""
        return getattr(self._engine, name)

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, _: str, **options: Any
    ) -> AsyncIterator[RequestOutput]:
        """Run the call's stage; raise `StageEnded` where a prefill hands over."""
        call = CURRENT.get()
        prefill_only = call.phase is Phase.PREFILL and (sampling_params.max_tokens or 0) > 1
        params = _staged_params(call, sampling_params, prefill_only)
        if call.prior and params.seed is not None:
            vocabulary_size = self._engine.model_config.get_vocab_size()
            params.extra_args[vllm_core.VOCABULARY_SIZE] = vocabulary_size
        options["priority"] = call.priority
        options["trace_headers"] = trace_headers()
        request_id = call.request_id
        if call.submissions:  # a completion of several prompts
            request_id = f"{request_id}-{call.submissions}"
        call.submissions += 1
        call.live = not call.prior
        async for output in _raising(self._engine.generate(prompt, params, request_id, **options)):
            _account(call, output, sampling_params)
            if not call.live:
                if params.output_kind is RequestOutputKind.DELTA:
                    for token, text in zip(call.prior, call.prior_text, strict=True):
                        yield _had_already(output, token, text)
                elif call.first_logprobs is not None:
                    _prepend_logprobs(output, call.first_logprobs)
                call.live = True
            if prefill_only and output.outputs[0].finish_reason == "length":
                if call.rendered is not None:
                    call.rendered.first_logprobs = output.outputs[0].logprobs
                _reopen(output, params)
                yield output
                raise StageEnded
            yield output


class StageRenderer:
    """vLLM's renderer, which a decode skips and a prefill is watched by."""

    def __init__(self, renderer: Any) -> None:
        """Wrap the engine's renderer."""
        self._renderer = renderer

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the renderer."""
        return getattr(self._renderer, name)

    async def render_chat_async(self, *args: Any, **kwargs: Any) -> Any:
        """Render a chat, or return what the prefill worker rendered."""
        call = CURRENT.get()
        if call.rendered is not None:
            return [call.rendered.conversation_tail], [call.rendered.engine_input]
        conversations, inputs = await self._renderer.render_chat_async(*args, **kwargs)
        call.rendered = Rendered(inputs[0], conversations[0][-1:])
        return conversations, inputs

    async def render_cmpl_async(self, *args: Any, **kwargs: Any) -> Any:
        """Render a completion, or return what the prefill worker rendered."""
        call = CURRENT.get()
        if call.rendered is not None:
            return [call.rendered.engine_input]
        inputs = await self._renderer.render_cmpl_async(*args, **kwargs)
        if len(inputs) == 1:
            call.rendered = Rendered(inputs[0])
        return inputs


@MEDIA_CONNECTOR_REGISTRY.register(MEDIA_CONNECTOR_NAME)
class ReferenceConnector(MediaConnector):
    """Resolves `epd:image:N` to the bytes that came with the call, and nothing else.

    The gateway fetches and checks media; a worker never opens a URL that a client wrote.
    """

    async def load_from_url_async(
        self, url: str, media_io: Any, *, fetch_timeout: int | None = None
    ) -> Any:
        """Decode the referenced image off the event loop."""
        images = CURRENT.get().images
        index = url.removeprefix(IMAGE_REFERENCE_PREFIX)
        if index == url or not index.isdecimal() or int(index) >= len(images):
            raise ValueError("media must be sent through the gateway")
        return await asyncio.to_thread(media_io.load_bytes, images[int(index)])


class RequestClock:
    """Stands in for `time` in vLLM's serving modules: a continued answer keeps its timestamp."""

    def __getattr__(self, name: str) -> Any:
        """Be `time` in every other respect."""
        return getattr(time, name)

    def time(self) -> float:
        """Return when the request was created, or the time outside of a call."""
        call = CURRENT.get(None)
        return float(call.created_s) if call is not None and call.created_s else time.time()


def patch_request_states() -> None:
    """Bend vLLM's output side of a request (`RequestState`) to its `Call`.

    The detokenizer starts after the prior tokens, and an answer in one piece, of which vLLM shows
    nothing before its end, passes on its tokens as they come.
    """
    stock = RequestState.from_new_request.__func__
    stock_output = RequestState.make_request_output
    if getattr(stock, "epd_patched", False):
        return

    def from_new_request(cls: Any, *args: Any, **kwargs: Any) -> RequestState:
        state: RequestState = stock(cls, *args, **kwargs)
        call = state.epd_call = CURRENT.get(None)
        if call is not None:
            call.clock.prompt_tokens = state.prompt_len
        if call is not None and call.prior and state.detokenizer is not None:
            delta = state.output_kind is RequestOutputKind.DELTA
            for token in call.prior:
                state.detokenizer.update([token], False)
                if delta:
                    call.prior_text.append(state.detokenizer.get_next_output_text(False, True))
            state.sent_tokens_offset = len(call.prior)
        return state

    def make_request_output(
        state: Any,
        new_token_ids: list[int],
        pooling_output: Any,
        finish_reason: Any,
        *args: Any,
        **options: Any,
    ) -> Any:
        if state.epd_call is not None and finish_reason is None:
            state.epd_call.tell(state, new_token_ids)
        return stock_output(state, new_token_ids, pooling_output, finish_reason, *args, **options)

    from_new_request.epd_patched = True  # type: ignore[attr-defined]
    RequestState.from_new_request = classmethod(from_new_request)
    RequestState.make_request_output = make_request_output


async def _raising(outputs: AsyncIterator[RequestOutput]) -> AsyncIterator[RequestOutput]:
    """Pass outputs on, and exceptions as what vLLM's formatters do not catch."""
    try:
        async for output in outputs:
            yield output
    except Exception as error:
        raise EngineRaised(error) from error


def _staged_params(
    call: Call, sampling_params: SamplingParams, prefill_only: bool
) -> SamplingParams:
    params = sampling_params.clone()
    # Only this stage may name transfer peers, or ask for what `vllm_core` adds to the engine: a
    # client's body reaches these arguments, too (`vllm_xargs`).
    extra: dict[str, Any] = {
        name: value
        for name, value in (params.extra_args or {}).items()
        if name not in _TRANSFER_PARAMS and not name.startswith(vllm_core.OWN_PREFIX)
    }
    if call.ec_params:
        extra["ec_transfer_params"] = call.ec_params
    if call.kv_params:
        extra["kv_transfer_params"] = dict(call.kv_params)
    if call.prior:
        extra[vllm_core.PRIOR_TOKENS] = call.prior
    if prefill_only:
        params.max_tokens = 1
        params.min_tokens = min(params.min_tokens, 1)
        extra["kv_transfer_params"] = {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "remote_engine_id": None,
            "remote_block_ids": None,
            "remote_host": None,
            "remote_port": None,
        }
    params.extra_args = extra or None
    return params


def _account(call: Call, output: RequestOutput, sampling_params: SamplingParams) -> None:
    finish_reason = output.outputs[0].finish_reason
    if finish_reason in ("error", "abort"):
        raise EngineFailed(finish_reason)
    if output.kv_transfer_params:
        call.produced_kv = output.kv_transfer_params
    output.kv_transfer_params = output.ec_transfer_params = None  # not for the client
    call.prompt_tokens = len(output.prompt_token_ids or ())
    if call.output_tokens == 0 and (stats := output.metrics) is not None:
        call.waited_s = max(0.0, stats.scheduled_ts - stats.queued_ts)
    skip = 0 if sampling_params.output_kind is RequestOutputKind.DELTA else len(call.prior)
    told = call.told.get(output.request_id, 0)
    for completion in output.outputs:
        call.output_tokens += len(completion.token_ids) - skip
    if sampling_params.n == 1:
        call.new_tokens.extend(list(output.outputs[0].token_ids)[skip + told :])


def _reopen(output: RequestOutput, params: SamplingParams) -> None:
    """Undo what vLLM does to an output because it takes it for the last one.

    Text that may yet turn out to belong to a stop string is held back until more is known.
    """
    completion = output.outputs[0]
    output.finished = False
    completion.finish_reason = None
    if params.stop and not params.include_stop_str_in_output:
        held_back = max(map(len, params.stop)) - 1
        completion.text = completion.text[: max(0, len(completion.text) - held_back)]


def _had_already(template: RequestOutput, token: int, text: str) -> RequestOutput:
    """Make the output that some other engine gave for `token`, to bring formatters to its state."""
    completion = dataclasses.replace(
        template.outputs[0],
        text=text,
        token_ids=[token],
        logprobs=None if template.outputs[0].logprobs is None else template.outputs[0].logprobs[:1],
        finish_reason=None,
        stop_reason=None,
    )
    return RequestOutput(
        request_id=template.request_id,
        prompt=template.prompt,
        prompt_token_ids=template.prompt_token_ids,
        prompt_logprobs=None,
        outputs=[completion],
        finished=False,
        num_cached_tokens=template.num_cached_tokens,
    )


def _prepend_logprobs(output: RequestOutput, first: list[dict[int, Any]]) -> None:
    completion = output.outputs[0]
    if completion.logprobs is not None:
        completion.logprobs = [*first, *completion.logprobs]
