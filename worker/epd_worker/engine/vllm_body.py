"""The client's JSON body, turned into what vLLM's OpenAI layer is given. No vLLM imports."""

import io
import json
from typing import Any

import PIL.Image

from epd.wire.messages import IMAGE_REFERENCE_PREFIX, FailureKind, Generate, Image
from epd_worker.engine import EngineError, vllm_refusal
from epd_worker.engine.ec_leases import content_of


def chat_for_encode(model: str, processor_options: bytes) -> dict[str, Any]:
    """Return a chat that holds just the first image, processed as the client's request asks."""
    part = {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}0"}}
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": [part]}],
        "max_tokens": 1,
    }
    if processor_options:
        body["mm_processor_kwargs"] = json.loads(processor_options)
    return body


def blank_png(side_pixels: int = 64) -> bytes:
    """Return a black square, to warm an encoder up with."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (side_pixels, side_pixels)).save(file, "PNG")
    return file.getvalue()


def request_fields(work: Generate, ec_params: dict[str, Any]) -> dict[str, Any]:
    """Return the body's fields, with images given as embeddings' metadata where that is enough.

    `ec_params` holds the metadata by the embedding's content. vLLM allows no mix of pixels and
    embeddings in one request, so pixels are used as soon as one image needs them.
    """
    try:
        body = json.loads(work.body)
    except RecursionError:
        raise vllm_refusal.of_unexpected_form() from None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise EngineError(FailureKind.INTERNAL, "the gateway forwarded a body that is no object")
    body["request_id"] = work.response_id.partition("-")[2] or work.response_id
    if work.images:
        by_metadata = all(
            image.ec is not None
            and not image.content
            and ec_params[content_of(image.ec.identifier)]["metadata"]
            for image in work.images
        )
        for part in _image_parts(body):
            url = part["image_url"]
            url = url.get("url") if isinstance(url, dict) else url
            image = _image_at(work, url)
            if image is None:
                continue
            if by_metadata and image.ec is not None:
                del part["image_url"]
                part["type"] = "image_embeds"
                part["image_embeds"] = ec_params[content_of(image.ec.identifier)]["metadata"]
            if image.ec is not None:
                part["uuid"] = content_of(image.ec.identifier)
    return body


def _image_at(work: Generate, url: object) -> Image | None:
    if isinstance(url, str) and url.startswith(IMAGE_REFERENCE_PREFIX):
        return work.images[int(url.removeprefix(IMAGE_REFERENCE_PREFIX))]
    return None


def _image_parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    return [
        part
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict) and "image_url" in part
    ]
