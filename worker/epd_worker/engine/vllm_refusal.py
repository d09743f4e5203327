"""What vLLM refuses, told as OpenAI's API would tell it. No vLLM imports.

vLLM names types and codes in its own way, repeats the refused value in the message, and gives
pydantic's branches for the path of a field. Here a refusal becomes one line, the path that the
client wrote, and a code where OpenAI has one. What vLLM failed to expect (a number where its
validators look for an object) is the client's mistake as well.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from pydantic import ValidationError

from epd.wire.messages import FailureKind
from epd_worker.engine import EngineError

MAX_MESSAGE_CHARS: Final = 500

UNEXPECTED_FORM: Final = (AssertionError, AttributeError, LookupError, RecursionError, TypeError)
"""Raised by code that takes the form of a request for granted; their words say nothing."""

_PROMPT_TOO_LONG: Final = frozenset({"input_tokens", "input_text"})  # vLLM's names, no field's
_REPEATED_VALUE: Final = re.compile(r" \(parameter=.*\)$", re.DOTALL)
_NOT_AN_IMAGE: Final = "Failed to load image"
_PROCESSOR_FAILED: Final = re.compile(r"Failed to apply \w+ on data=")
_FIELD: Final = re.compile(r"[a-z_0-9]+")
_TYPE_NAMES: Final = frozenset({"bool", "bytes", "dict", "float", "int", "list", "str"})


def of_validation(error: ValidationError) -> EngineError:
    """Return the refusal of a body that does not fit vLLM's request models.

    Of a union's branches all complain, most of them because the object is of another branch: what
    is said first beside that is told.
    """
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    told = next((e for e in errors if e["type"] != "literal_error"), errors[0])
    path = _path(told["loc"])
    message = f"{path}: {told['msg']}" if path else told["msg"]
    return _refusal(400, message, path or None)


def of_response(
    status: int, message: str, param: str | None, fields: Collection[str] = ()
) -> EngineError:
    """Return the refusal that vLLM's own error response stands for.

    Args:
        status: Its HTTP status; from 500 on (501 apart) it is the engine's failure.
        message: Its message.
        param: The field it names, if any.
        fields: The fields of the client's body.
    """
    if status >= 500 and status != 501:
        return EngineError(FailureKind.INTERNAL, "the engine failed")
    message = _REPEATED_VALUE.sub("", message)
    if param in _PROMPT_TOO_LONG:
        field = "messages" if "messages" in fields else "prompt"
        return _refusal(400, message, field, "context_length_exceeded")
    if _PROCESSOR_FAILED.match(message):
        message = "the model's processor cannot take an image of the request: its size or shape"
        return _refusal(400, message, None, "invalid_image")
    if message.startswith(_NOT_AN_IMAGE):
        return _refusal(400, message, param, "invalid_image")
    if param is None:
        word = message.partition(" ")[0]
        param = word if word in fields else None
    elif param == "max_tokens" and param not in fields and "max_completion_tokens" in fields:
        param = "max_completion_tokens"
    code = "model_not_found" if status == 404 else None
    return _refusal(400 if status in (422, 501) else status, message, param, code)


def of_unexpected_form() -> EngineError:
    """Return the refusal of a body that broke vLLM's validators."""
    return _refusal(400, "a field of the request has a form that cannot be read", None)


def _refusal(status: int, message: str, param: str | None, code: str | None = None) -> EngineError:
    line = " ".join(message.split())[:MAX_MESSAGE_CHARS]
    error: Mapping[str, Any] = {
        "message": line,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }
    body = json.dumps({"error": error}).encode()
    return EngineError(
        FailureKind.REFUSED, f"refused with status {status}", status=status, body=body
    )


def _path(loc: tuple[int | str, ...]) -> str:
    """Return a field's path as a client would write it, `messages[0].name`."""
    path = ""
    if loc and isinstance(
        loc[0], int
    ):  # the part of a list that is checked late: which list is not said
        return path
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _FIELD.fullmatch(part) and part not in _TYPE_NAMES:
            path += f".{part}" if path else part
    return path
