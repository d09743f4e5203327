"""The envelope of OpenAI requests: what the gateway must know before it can place them.

Everything else in a body (sampling parameters, tools, schemas, ...) is vLLM's to accept or refuse
in a worker. A body without images is forwarded as the very bytes that came. Image URLs are taken
out and replaced by references, and every other way in which a worker might be made to fetch
something is refused here: workers trust what the gateway forwards. So is what vLLM would ignore
and a client would miss in the answer.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from epd.wire.messages import IMAGE_REFERENCE_PREFIX, Api
from epd_gateway.errors import (
    InvalidRequest,
    UnsupportedContentType,
    UnsupportedParameter,
    UnsupportedValue,
)
from epd_gateway.media import ImageReference

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"

_OFFLINE_TIER: Final = "flex"
_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_UNSUPPORTED: Final = {
    "audio": "answers are text",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "web_search_options": "nothing is searched",
    # These two tell vLLM where to take caches from.
    "ec_transfer_params": "handoffs are the gateway's own",
    "kv_transfer_params": "handoffs are the gateway's own",
}
_TEXT_PARTS: Final = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "tool_reference"}
)
# vLLM reads these keys from a part whatever its type says.
_MEDIA_KEYS: Final = frozenset(
    {
        "audio_embeds", "audio_url", "image_embeds", "image_pil", "image_url", "input_audio",
        "prompt_embeds", "uuid", "video_embeds", "video_url",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the gateway knows of a request.

    Attributes:
        api: The endpoint.
        model: The model asked for.
        body: What workers are given.
        stream: The answer is streamed.
        splittable: There is one choice, and prefill and decode may run on two pods; only such an
            answer can be continued elsewhere once it has begun.
        images: Its images, in the order of their references.
        processor_options: JSON of `mm_processor_kwargs`; empty: none.
        offline: Nobody waits for it (`service_tier` is `flex`): it may stand in line.
    """

    api: Api
    model: str
    body: bytes
    stream: bool
    splittable: bool
    images: tuple[ImageReference, ...] = ()
    processor_options: bytes = b""
    offline: bool = False


def read_envelope(api: Api, body: bytes, content_type: str = "application/json") -> Envelope:
    """Check the envelope of a request.

    Args:
        api: The endpoint.
        body: The request's body.
        content_type: The request's `content-type`; empty: none was sent.

    Raises:
        UnsupportedContentType: The body is declared to be something else than JSON.
        InvalidRequest: The envelope is not in order.
    """
    if content_type and not _is_json(content_type):
        raise UnsupportedContentType("the body must be JSON: set content-type: application/json")
    fields = _parse(body)
    model = fields.get("model")
    if not isinstance(model, str):
        raise InvalidRequest("model must be given, as a string", param="model")
    _refuse_unsupported(fields)
    stream = _flag(fields, "stream")
    if api is Api.CHAT_COMPLETIONS:
        images = _take_images(fields)
        several_prompts = False
    else:
        images = []
        several_prompts = _has_several_prompts(fields)
    splittable = not several_prompts and _may_be_split(fields)
    options = fields.get("mm_processor_kwargs") if images else None
    return Envelope(
        api,
        model,
        _rewritten(fields) if images else body,
        stream,
        splittable,
        tuple(images),
        orjson.dumps(options) if options else b"",
        fields.get("service_tier") == _OFFLINE_TIER,
    )


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _parse(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    return fields


def _rewritten(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:  # it writes 254 levels at most, and reads more
        raise InvalidRequest("the body's JSON is nested too deeply") from None


def _refuse_unsupported(fields: dict[str, Any]) -> None:
    for name in _UNSUPPORTED.keys() & fields.keys():
        if fields[name] is not None:
            raise UnsupportedParameter(f"{name} is not supported: {_UNSUPPORTED[name]}", param=name)
    if fields.get("modalities") not in (None, ["text"]):
        raise UnsupportedValue('modalities must be ["text"]: answers are text', param="modalities")


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a whole number", param=name)
    return value


def _may_be_split(fields: dict[str, Any]) -> bool:
    return (
        _count(fields, "n") <= 1
        and _count(fields, "best_of") <= 1
        and not fields.get("use_beam_search")
        and fields.get("prompt_logprobs") is None
        and not (fields.get("echo") and fields.get("logprobs") is not None)
    )


def _has_several_prompts(fields: dict[str, Any]) -> bool:
    """Check that a prompt is there; a list of token ids is one prompt, other lists are several."""
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return False
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be a string or a list that is not empty", param="prompt")
    return not isinstance(prompt[0], int)


def _take_images(fields: dict[str, Any]) -> list[ImageReference]:
    """Replace the URL of each image by its reference, and return the URLs."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list that is not empty", param="messages")
    images: list[ImageReference] = []
    for index, message in enumerate(messages):
        content = _content_of(message, index)
        if isinstance(content, list):
            for number, part in enumerate(content):
                _read_part(part, f"messages[{index}].content[{number}]", images)
    return images


def _content_of(message: object, index: int) -> object:
    if not isinstance(message, dict):
        raise InvalidRequest("a message must be an object", param=f"messages[{index}]")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise InvalidRequest(
            f"a message's role must be one of {', '.join(_ROLES)}", param=f"messages[{index}].role"
        )
    if content is not None and not isinstance(content, str | list):
        raise InvalidRequest(
            "a message's content must be a string or a list of parts",
            param=f"messages[{index}].content",
        )
    return content


def _read_part(part: object, param: str, images: list[ImageReference]) -> None:
    if not isinstance(part, dict):
        raise InvalidRequest("a content part must be an object", param=param)
    kind = part.get("type")
    if kind == "image_url":
        images.append(_take_url(part, param, len(images)))
    elif not isinstance(kind, str):
        raise InvalidRequest("a content part needs a type", param=f"{param}.type")
    elif kind not in _TEXT_PARTS:
        raise InvalidRequest(
            f"content parts of type {kind[:40]!r} are not supported; use text or image_url",
            param=f"{param}.type",
        )
    elif not _MEDIA_KEYS.isdisjoint(part):
        key = min(_MEDIA_KEYS.intersection(part))
        raise InvalidRequest(f"a {kind} part cannot hold {key}", param=f"{param}.{key}")
    elif kind == "text" and not isinstance(part.get("text"), str):
        raise InvalidRequest("a text part needs a text, as a string", param=f"{param}.text")


def _take_url(part: dict[str, Any], param: str, number: int) -> ImageReference:
    surplus = _MEDIA_KEYS.intersection(part) - {"image_url"}
    if surplus:
        key = min(surplus)
        raise InvalidRequest(f"an image_url part cannot hold {key}", param=f"{param}.{key}")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(url, str):
        raise InvalidRequest(
            "image_url must be an object with a url, as a string", param=f"{param}.image_url"
        )
    image["url"] = f"{IMAGE_REFERENCE_PREFIX}{number}"
    return ImageReference(url, f"{param}.image_url.url")
