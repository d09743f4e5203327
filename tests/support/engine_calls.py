"""What the contract suite says to an engine, whichever it is, and what it hears back."""

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image as Pixels

from epd.wire.messages import (
    IMAGE_REFERENCE_PREFIX,
    Api,
    Completed,
    EcHandle,
    Encode,
    Generate,
    Image,
    Phase,
    Prefilled,
)
from epd_worker.engine import Engine, EngineLoad, StageClock
from epd_worker.engine.vllm_load import holds_anything

WORDS = "Tell me, in a few words, what a lighthouse is good for."


@dataclass(frozen=True)
class Heard:
    """What one call of `generate` gave."""

    result: Prefilled | Completed
    payload: bytes
    token_ids: bytes
    clock: StageClock

    @property
    def prefilled(self) -> Prefilled:
        assert isinstance(self.result, Prefilled)
        return self.result


def picture(color: str, width: int = 64, height: int = 48) -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Pixels.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def chat(engine: Engine, images: int = 0, text: str = WORDS, **fields: Any) -> Generate:
    """Return a whole streamed chat; its images are still to be put in."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}{index}"}}
        for index in range(images)
    ]
    content = [*parts, {"type": "text", "text": text}]
    fields.setdefault("messages", [{"role": "user", "content": content}])
    return _whole(engine, Api.CHAT_COMPLETIONS, **fields)


def completion(engine: Engine, text: str = WORDS, **fields: Any) -> Generate:
    """Return a whole streamed completion."""
    return _whole(engine, Api.COMPLETIONS, prompt=text, **fields)


def _whole(engine: Engine, api: Api, **fields: Any) -> Generate:
    stream = fields.setdefault("stream", True)
    if stream:
        fields.setdefault("stream_options", {"include_usage": True})
    else:
        fields.pop("stream_options", None)
    body = {"model": engine.describe().model, "max_tokens": 8, "temperature": 0, **fields}
    return Generate(
        phase=Phase.WHOLE,
        api=api,
        body=json.dumps(body).encode(),
        stream=stream,
        response_id="chatcmpl-7" if api is Api.CHAT_COMPLETIONS else "cmpl-7",
        created_s=1_700_000_000,
    )


def with_pixels(work: Generate, *contents: bytes) -> Generate:
    """Return the work with images to be encoded where it runs."""
    return replace(work, images=tuple(Image(content, "image/png") for content in contents))


async def with_handles(work: Generate, encoder: Engine, *contents: bytes) -> Generate:
    """Encode images on `encoder`; return the work with their handles, and pixels if needed."""
    handles = [await encode(encoder, content) for content in contents]
    images = [
        Image(b"" if handle.metadata else content, "image/png", handle)
        for handle, content in zip(handles, contents, strict=True)
    ]
    return replace(work, images=tuple(images))


async def encode(engine: Engine, content: bytes) -> EcHandle:
    """Run one encode."""
    return await engine.encode("encode", Encode(Image(content, "image/png")), StageClock())


def prefill_of(whole: Generate) -> Generate:
    """Return the prefill of a whole."""
    return replace(whole, phase=Phase.PREFILL)


def decode_of(whole: Generate, prefill: Heard) -> Generate:
    """Return the decode that goes on after `prefill`."""
    return replace(
        whole,
        phase=Phase.DECODE,
        kv=prefill.prefilled.kv,
        rendered=prefill.prefilled.rendered,
        emitted_token_ids=prefill.token_ids,
    )


async def hear(engine: Engine, work: Generate, on_emit: Callable[[], None] | None = None) -> Heard:
    """Run one piece of work to its end."""
    payloads: list[bytes] = []
    tokens: list[bytes] = []
    clock = StageClock()

    def emit(payload: bytes, token_ids: bytes) -> None:
        payloads.append(payload)
        tokens.append(token_ids)
        if on_emit is not None:
            on_emit()

    result = await engine.generate("request", work, emit, clock, 0)
    return Heard(result, b"".join(payloads), b"".join(tokens), clock)


async def load_where(engine: Engine, holds: Callable[[EngineLoad], bool]) -> EngineLoad:
    """Return the engine's load once it is as wanted; the test's own timeout is the limit."""
    while not holds(load := engine.load()):  # noqa: ASYNC110 - engines announce no changes
        await asyncio.sleep(0.01)
    return load


def holds_nothing(load: EngineLoad) -> bool:
    """Tell whether an engine keeps nothing for anybody."""
    return not holds_anything(load)


def answer_of(payload: bytes) -> dict[str, Any]:
    """Return what a client makes of an answer, however the engine cut it into events.

    vLLM puts the tokens of two steps into one event where its front end falls behind.
    """
    if not payload.startswith(b"data: "):
        whole: dict[str, Any] = json.loads(payload)
        return whole
    found = events(payload)
    choices = {part["index"] for event in found for part in event["choices"]}
    return {
        "heads": {(event["id"], event["object"], event["created"]) for event in found},
        "texts": {choice: text_of(payload, choice) for choice in choices},
        "reasons": {choice: finish_of(payload, choice) for choice in choices},
        "usage": found[-1].get("usage"),
    }


def open_text_of(payload: bytes) -> str:
    """Return the text of a stream that has not ended, or only of its end."""
    parts = [part for part in payload.decode().split("\n\n") if part.startswith("data: {")]
    return text_of("\n\n".join([*parts, "data: [DONE]", ""]).encode())


def events(payload: bytes) -> list[dict[str, Any]]:
    """Return the JSON of each server-sent event; the stream must end as OpenAI's do."""
    *parts, done, rest = payload.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def text_of(payload: bytes, choice: int = 0) -> str:
    """Return the text of one choice of a streamed chat or completion."""
    found = [
        part["text"] if "text" in part else part["delta"].get("content")
        for event in events(payload)
        for part in event["choices"]
        if part["index"] == choice
    ]
    return "".join(text or "" for text in found)


def finish_of(payload: bytes, choice: int = 0) -> str:
    """Return why one choice of a streamed answer ended."""
    (reason,) = (
        part["finish_reason"]
        for event in events(payload)
        for part in event["choices"]
        if part["index"] == choice and part["finish_reason"]
    )
    return str(reason)
