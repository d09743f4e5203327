"""What the simulated engine refuses of sampling parameters: what vLLM refuses, field by field.

Values are checked and otherwise ignored: made-up tokens follow no temperature.
"""

from typing import Any, Final

from epd_worker.engine.simulated_refusal import refusal

MAX_LOGPROBS: Final = 20
_LARGEST: Final = 2**63 - 1

_NUMBERS: Final[dict[str, tuple[float, float]]] = {
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "temperature": (0, 2),
    "top_p": (0, 1),
}
_INTEGERS: Final[dict[str, tuple[int, int]]] = {
    "prompt_logprobs": (-1, MAX_LOGPROBS),
    "seed": (-_LARGEST, _LARGEST),
    "top_k": (-1, _LARGEST),
}
"""Inclusive bounds; `top_p` must also be more than 0."""


def check_parameters(request: dict[str, Any]) -> None:
    """Refuse what no engine could follow; `EngineError(REFUSED)` names the field."""
    for name in _NUMBERS.keys() & request.keys():
        least, most = _NUMBERS[name]
        value = _number(request[name], name, int | float, "number")
        if value is not None and (not least <= value <= most or (name == "top_p" and value == 0)):
            raise refusal(f"{name} must be between {least} and {most}, got {value}.", name)
    for name in _INTEGERS.keys() & request.keys():
        low, high = _INTEGERS[name]
        value = _number(request[name], name, int, "integer")
        if value is not None and not low <= value <= high:
            raise refusal(f"{name} must be between {low} and {high}.", name)
    _check_logprobs(request)
    _check_tools(request)
    _check_format(request)
    if request.get("stream_options") and not request.get("stream"):
        raise refusal("Stream options can only be defined when `stream=True`.", "stream_options")


def _number(value: object, name: str, kind: Any, called: str) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise refusal(f"{name} must be a valid {called}.", name)
    return value


def _check_logprobs(request: dict[str, Any]) -> None:
    name = "top_logprobs" if "messages" in request else "logprobs"
    wanted = _number(request.get(name), name, int, "integer")
    if wanted and name == "top_logprobs" and not request.get("logprobs"):
        raise refusal("when using `top_logprobs`, `logprobs` must be set to true.", name)
    if wanted is not None and not 0 <= wanted <= MAX_LOGPROBS:
        raise refusal(f"{name} must be between 0 and {MAX_LOGPROBS}.", "logprobs")


def _check_tools(request: dict[str, Any]) -> None:
    tools, choice = request.get("tools"), request.get("tool_choice")
    if tools is not None and (not isinstance(tools, list) or not tools):
        raise refusal("`tools` must be an array that is not empty.", "tools")
    if choice == "none":
        return
    if choice is not None and tools is None:
        raise refusal("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if tools is not None:
        raise refusal("There is no parser of tool calls here.", None)


def _check_format(request: dict[str, Any]) -> None:
    if not isinstance(request.get("structured_outputs", {}), dict | None):
        raise refusal("structured_outputs must be an object.")
    wanted = request.get("response_format")
    if wanted is None:
        return
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise refusal("response_format.type is unknown.", "response_format.type")
    if kind == "json_schema" and not isinstance(wanted.get("json_schema"), dict):
        raise refusal("the 'json_schema' field must be provided.", "response_format")
