"""What the simulated engine reads in a client's request, and what it refuses in it.

`render` is the stand-in of chat template and tokenizer. Its result travels from prefill to decode
as a few opaque bytes, so that a decode does not parse the prompt again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from epd.wire.messages import Api, FailureKind
from epd_worker.engine import EngineError
from epd_worker.engine.simulated_parameters import check_parameters
from epd_worker.engine.simulated_refusal import refusal

DEFAULT_MAX_TOKENS = 64
MAX_CHOICES = 128
VOCABULARY_SIZE = 1 << 16
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Rendered:
    """One request as the engine runs it. `prompt_tokens` counts the images' tokens, too."""

    prompt_hash: str
    prompt_tokens: int
    max_tokens: int
    ends_by_itself: bool
    """The client set no limit: the answer ends like a model's that has said everything."""
    choices: int
    stop: tuple[str, ...]
    include_usage: bool
    processor_options: str

    def to_bytes(self) -> bytes:
        """Return the bytes that `from_bytes` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Rendered":
        """Read what `to_bytes` wrote; `EngineError(INTERNAL)` for anything else."""
        try:
            fields = json.loads(data)
            return cls(**{**fields, "stop": tuple(fields["stop"])})
        except (ValueError, TypeError, KeyError):
            raise EngineError(
                FailureKind.INTERNAL, "what the prefill rendered cannot be read here"
            ) from None


def canonical_options(options: bytes) -> str:
    """Return `mm_processor_kwargs` in one spelling, so that equal options hash equally."""
    if not options:
        return ""
    try:
        return _canonical(json.loads(options))
    except ValueError:
        raise refusal("mm_processor_kwargs is not JSON", "mm_processor_kwargs") from None


def render(
    api: Api, body: bytes, image_tokens: Sequence[int], model: str, context_tokens: int
) -> Rendered:
    """Read a request body; `EngineError(REFUSED)` with OpenAI's answer for a client's mistake."""
    request = _parsed(body)
    if api is Api.CHAT_COMPLETIONS:
        prompt, text_tokens, prompts = _chat_prompt(request.get("messages"))
    else:
        prompt, text_tokens, prompts = _completion_prompt(request.get("prompt"))
    prompt_tokens = text_tokens + sum(image_tokens)
    check_parameters(request)
    limit = _output_limit(request, context_tokens)
    if prompt_tokens + 1 > context_tokens:
        raise refusal(
            f"This model's maximum context length is {context_tokens} tokens; the request has "
            f"{prompt_tokens} of prompt.",
            "messages" if api is Api.CHAT_COMPLETIONS else "prompt",
            "context_length_exceeded",
        )
    options = request.get("mm_processor_kwargs")
    return Rendered(
        prompt_hash=blake2b(f"{model}\n{prompt}".encode(), digest_size=16).hexdigest(),
        prompt_tokens=prompt_tokens,
        max_tokens=min(limit or DEFAULT_MAX_TOKENS, context_tokens - prompt_tokens),
        ends_by_itself=limit is None,
        choices=prompts * _integer(request, "n", 1, MAX_CHOICES),
        stop=_stop_strings(request.get("stop")),
        include_usage=_include_usage(request.get("stream_options")),
        processor_options=_canonical(options) if options else "",
    )


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise refusal("The request body is not valid JSON, or nested too deeply.") from None
    if not isinstance(request, dict):
        raise refusal("The request body must be a JSON object.")
    return request


def _tokens_of(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def _chat_prompt(messages: object) -> tuple[str, int, int]:
    if not isinstance(messages, list) or not messages:
        raise refusal("'messages' must be a non-empty array of objects.", "messages")
    tokens = 0
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise refusal(f"'{where}' must be an object with a 'role'.", where)
        tokens += 4 + _content_tokens(message.get("content"), where)
    return _canonical(messages), tokens, 1


def _content_tokens(content: object, where: str) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return _tokens_of(content)
    if not isinstance(content, list):
        raise refusal(f"'{where}.content' must be a string or an array.", f"{where}.content")
    tokens = 0
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            tokens += _tokens_of(part["text"])
        elif kind != "image_url":
            name = f"{where}.content[{index}]"
            raise refusal(f"'{name}' must be a part of type 'text' or 'image_url'.", name)
    return tokens


def _completion_prompt(prompt: object) -> tuple[str, int, int]:
    if isinstance(prompt, str) and prompt:
        return _canonical(prompt), _tokens_of(prompt), 1
    if isinstance(prompt, list) and prompt:
        if all(isinstance(token, int) and not isinstance(token, bool) for token in prompt):
            if not 0 <= min(prompt) <= max(prompt) < VOCABULARY_SIZE:
                raise refusal("A token id is out of vocabulary.")
            return _canonical(prompt), len(prompt), 1
        if all(isinstance(text, str) for text in prompt):
            return _canonical(prompt), sum(map(_tokens_of, prompt)) or 1, len(prompt)
    raise refusal(
        "'prompt' must be a string that is not empty, an array of strings or of token ids.",
        "prompt",
    )


def _integer(request: dict[str, Any], name: str, default: int, most: int | None = None) -> int:
    value = request.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise refusal(f"'{name}' must be an integer.", name)
    if value < 1 or (most is not None and value > most):
        bounds = "at least 1" if most is None else f"between 1 and {most}"
        raise refusal(f"'{name}' must be {bounds}, got {value}.", name)
    return value


def _output_limit(request: dict[str, Any], context_tokens: int) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = _integer(request, name, 0)
        if limit > context_tokens:
            raise refusal(f"{name}={limit} cannot be greater than {context_tokens}.", name)
        if limit:
            return limit
    return None


def _stop_strings(stop: object) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(strings, list) or not all(isinstance(s, str) and s for s in strings):
        raise refusal("'stop' must be a non-empty string or an array of such.", "stop")
    return tuple(strings)


def _include_usage(options: object) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise refusal("'stream_options' must be an object.", "stream_options")
    return options.get("include_usage") is True
