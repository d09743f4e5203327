"""The cost curves file: what each stage costs, for simulated engine, control loop and simulator.

`epd profile` writes such files. Pairs are (x, milliseconds) at rising x, joined by straight lines
and prolonged by the last one; all durations are times `time_scale`.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_CURVES_FILE: Final = Path(__file__).with_name("default_curves.yaml")
"""What a curves file leaves out is as here."""

Milliseconds = Annotated[float, Field(ge=0, le=1e7)]
Count = Annotated[int, Field(ge=1)]
Interval = Annotated[int, Field(ge=0)]


def _rises(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if any(left[0] >= right[0] for left, right in pairwise(points)):
        raise ValueError("the first numbers of the pairs must rise")
    return points


Points = Annotated[list[tuple[float, Milliseconds]], Field(min_length=1), AfterValidator(_rises)]


class CurvesError(ValueError):
    """A curves file cannot be used; the message is one line."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncodeCost(_Section):
    """The vision encoder: a fixed part a run, and a part for each image of the run."""

    batch_ms: Milliseconds
    image_ms: Points
    max_batch_images: Count


class DecodeStepCost(_Section):
    """One engine step that only decodes."""

    batch_ms: Points
    ms_per_1000_tokens: Milliseconds


class HandoffCost(_Section):
    """Moving EC or KV from one worker to another: what the taker waits.

    Attributes:
        fixed_ms: Each handoff, however small.
        ec_fixed_ms: The same of an embedding; None: as of a KV cache.
        gib_per_s: Speed of the link, for both.
        kv_bytes_per_token: Of the KV cache.
        ec_bytes_per_token: Of an embedding.
        measured_bytes: The smallest and the largest handoff that was measured; beyond them the
            line is prolonged. None: none was.
        source: Where the times come from, where that is not the file's `source`; one line.
    """

    fixed_ms: Milliseconds
    ec_fixed_ms: Milliseconds | None = None
    gib_per_s: Annotated[float, Field(gt=0)]
    kv_bytes_per_token: Count
    ec_bytes_per_token: Count
    measured_bytes: tuple[Count, Count] | None = None
    source: str = ""

    @property
    def embedding_ms(self) -> float:
        """What each handoff of an embedding costs, however small."""
        return self.fixed_ms if self.ec_fixed_ms is None else self.ec_fixed_ms


class Capacity(_Section):
    """What fits into one engine."""

    max_running: Count
    max_batch_tokens: Count
    context_tokens: Count
    kv_tokens: Count
    ec_bytes: Count
    max_images: Annotated[int, Field(ge=0)]
    pixels_once: bool


class FailureIntervals(_Section):
    """Failures on purpose: every N-th piece of work of a kind; 0: none."""

    encode_every: Interval
    prefill_every: Interval
    decode_every: Interval
    handoff_every: Interval


class CurvesFile(_Section):
    """A whole curves file; what a file leaves out is filled in by `read`.

    Attributes:
        source: Where the numbers come from: model, GPU, program, date; one line.
    """

    source: str = ""
    time_scale: Annotated[float, Field(ge=0, le=1000)]
    encode: EncodeCost
    prefill_ms: Points
    decode_step: DecodeStepCost
    handoff: HandoffCost
    capacity: Capacity
    failures: FailureIntervals

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.capacity.context_tokens > self.capacity.kv_tokens:
            raise ValueError("capacity.context_tokens must not be above capacity.kv_tokens")
        return self

    @classmethod
    def read(cls, path: Path | None, overrides: Iterable[str] = ()) -> Self:
        """Read a file; what it leaves out is as in the shipped one.

        Args:
            path: The file; None: the shipped one.
            overrides: `section.key=value`.

        Raises:
            CurvesError: It cannot be read, or something in it is missing, unknown or no number.
        """
        tree = _read(DEFAULT_CURVES_FILE)
        if path is not None:
            tree = _merged({**tree, "source": str(path)}, _read(path))
        for argument in overrides:
            _override(tree, argument)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            reason = first["msg"].removeprefix("Value error, ")
            name = path or "with overrides"
            raise CurvesError(f"cost curves {name}: {where}: {reason}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise CurvesError(f"cost curves {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = mark.line + 1 if mark else 1
        raise CurvesError(f"cost curves {path}: line {line} is not YAML") from None
    if not isinstance(tree, dict):
        raise CurvesError(f"cost curves {path}: a mapping was expected")
    return tree


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        merged[key] = _merged(inner, value) if both and isinstance(inner, dict) else value
    return merged


def _override(tree: dict[str, Any], argument: str) -> None:
    path, equals, value = argument.partition("=")
    if not equals:
        raise CurvesError(
            f"engine argument {argument!r}: the simulated engine takes KEY=VALUE pairs that "
            "override its curves file, such as time_scale=0.01 or failures.encode_every=3"
        )
    *sections, leaf = path.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise CurvesError(f"engine argument {argument!r}: {name} is no section")
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise CurvesError(f"engine argument {argument!r}: the value is not YAML") from None
