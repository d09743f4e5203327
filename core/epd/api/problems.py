"""What is wrong with a manifest, as one sentence per fault: where, what, and what to do."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from epd.api import fields
from epd.api.base import CONTRADICTION, Location
from epd.api.patterns import MEANINGS

MAX_SHOWN_CHARS: Final = 60
WHOLE_MANIFEST: Final = "manifest"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: `path` as in `spec.roles[1].max`, `reason` as a sentence without a full stop."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ClusterError(ValueError):
    """A manifest that cannot be used.

    `source` is the file it came from; `problems` holds every fault found. The text has one line
    per problem, each naming source, path and reason.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return what `error` says about a document that should have been a `model`."""
    faults = error.errors(include_url=False)
    about_identity = {fault["loc"][0] for fault in faults if fault["loc"]} & {"apiVersion", "kind"}
    if about_identity == {"apiVersion", "kind"}:
        # Some other kind of object: what its fields lack as an EPDCluster helps nobody.
        faults = [fault for fault in faults if fault["loc"][:1] in (("apiVersion",), ("kind",))]
    return [Problem(path_text(fault["loc"]), _reason(_redacted(fault), model)) for fault in faults]


def shown(value: object) -> str:
    """Return `value` as JSON, shortened so that a message stays one readable line."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the candidate closest to `word`, or an empty string."""
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word.lower().replace("_", ""), by_lower_case, 1, 0.7)
    return f"; did you mean {by_lower_case[close[0]]}?" if close else ""


def path_text(location: Location) -> str:
    """Return `location` as users write it: `spec.roles[1].max`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path or WHOLE_MANIFEST


def _redacted(fault: ErrorDetails) -> ErrorDetails:
    """Hide what may be a key that was written where the name of its Secret belongs."""
    if "apiKeysSecretRef" in fault["loc"] and isinstance(fault["input"], str):
        fault["input"] = "(hidden)"
    return fault


def _reason(fault: ErrorDetails, model: type[BaseModel]) -> str:
    kind = fault["type"]
    context = fault.get("ctx", {})
    if kind == CONTRADICTION:
        return str(context["reason"])
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown_field(fault["loc"], model)
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]} is expected, got {_described(fault['input'])}"
    if kind in _BOUNDS:
        return _BOUNDS[kind](shown(fault["input"]), context)
    return f"{fault['msg']}, got {shown(fault['input'])}"


_EXPECTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "int_type": "an integer",
        "int_from_float": "an integer",
        "int_parsing_size": "an integer",
        "string_type": "a string",
        "tuple_type": "a list",
        "dict_type": "an object",
        "model_type": "an object",
        "model_attributes_type": "an object",
    }
)

_Bound = Callable[[str, Mapping[str, Any]], str]


def _not_allowed(got: str, context: Mapping[str, Any]) -> str:
    allowed = context["expected"].replace("'", "").replace(" or ", ", ")
    return f"{got} is not allowed; allowed: {allowed}{_close_to(got, allowed)}"


def _close_to(got: str, allowed: str) -> str:
    words = allowed.split(", ")
    return did_you_mean(got.strip('"'), words) if len(words) > 1 else ""


_BOUNDS: Final[Mapping[str, _Bound]] = MappingProxyType(
    {
        "enum": _not_allowed,
        "literal_error": _not_allowed,
        "greater_than_equal": lambda got, ctx: f"{got} is below the least allowed, {ctx['ge']}",
        "less_than_equal": lambda got, ctx: f"{got} is above the most allowed, {ctx['le']}",
        "string_too_short": lambda got, ctx: f"{got} is too short; least: {ctx['min_length']}",
        "string_too_long": lambda got, ctx: (
            f"is longer than {ctx['max_length']} characters; it begins with {got}"
        ),
        "too_long": lambda got, ctx: f"has more than {ctx['max_length']} entries",
        "string_pattern_mismatch": lambda got, ctx: (
            f"{got} is not of the right form; expected: {MEANINGS[ctx['pattern']]}"
        ),
    }
)


def _described(value: object) -> str:
    if value is None:
        return "nothing (null); give a value or remove the key"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        hint = "; remove the quotes" if value.lstrip("-").isdecimal() else ""
        return f"the string {shown(value)}{hint}"
    word = "boolean" if isinstance(value, bool) else "number"
    return f"the {word} {shown(value)}"


def _unknown_field(location: Location, model: type[BaseModel]) -> str:
    word = str(location[-1])
    parent = fields.model_at(model, location[:-1])
    known = list(fields.fields_of(parent)) if parent is not None else []
    hint = did_you_mean(word, known)
    if not hint:
        elsewhere = (path for path, _ in fields.walk(model) if path.split(".")[-1] == word)
        path = next(elsewhere, None)
        hint = f"; did you mean {path}?" if path else f"; known here: {', '.join(known)}"
    return f"unknown field{hint}"
