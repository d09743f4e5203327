"""What each stage of the simulated engine costs: the curves file, checked, and its arithmetic."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from epd.api.curves import DEFAULT_CURVES_FILE
from epd_worker.engine.settings import SettingsError

Milliseconds = Annotated[float, Field(ge=0, le=1e7)]
Count = Annotated[int, Field(ge=1)]
Interval = Annotated[int, Field(ge=0)]


def _rises(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if any(left[0] >= right[0] for left, right in pairwise(points)):
        raise ValueError("the first numbers of the pairs must rise")
    return points


Curve = Annotated[list[tuple[float, Milliseconds]], Field(min_length=1), AfterValidator(_rises)]


def at(curve: Curve, x: float) -> float:
    """Return the curve's milliseconds at `x`: straight lines between points, never below 0."""
    if len(curve) == 1:
        return curve[0][1]
    right = min(max(bisect_right(curve, x, key=lambda point: point[0]), 1), len(curve) - 1)
    (x0, y0), (x1, y1) = curve[right - 1], curve[right]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncodeCost(_Section):
    """The vision encoder: a fixed part a run, and a part for each image of the run."""

    batch_ms: Milliseconds
    image_ms: Curve
    max_batch_images: Count


class DecodeStepCost(_Section):
    """One engine step that only decodes."""

    batch_ms: Curve
    ms_per_1000_tokens: Milliseconds


class HandoffCost(_Section):
    """Moving EC or KV from one worker to another."""

    fixed_ms: Milliseconds
    gib_per_s: Annotated[float, Field(gt=0)]
    kv_bytes_per_token: Count
    ec_bytes_per_token: Count


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


class CostCurves(_Section):
    """A whole curves file. Durations are returned in seconds, `time_scale` applied."""

    time_scale: Annotated[float, Field(ge=0, le=1000)]
    encode: EncodeCost
    prefill_ms: Curve
    decode_step: DecodeStepCost
    handoff: HandoffCost
    capacity: Capacity
    failures: FailureIntervals

    @model_validator(mode="after")
    def _one_request_fits(self) -> "CostCurves":
        if self.capacity.context_tokens > self.capacity.kv_tokens:
            raise ValueError("capacity.context_tokens must not be above capacity.kv_tokens")
        return self

    def encode_s(self, image_tokens: Iterable[int]) -> float:
        """Return the duration of one run of the encoder over images of so many tokens."""
        images_ms = sum(at(self.encode.image_ms, tokens) for tokens in image_tokens)
        return (self.encode.batch_ms + images_ms) * self.time_scale / 1e3

    def step_s(self, prefill_ms: float, running: int, context_tokens: int) -> float:
        """Return the duration of one engine step: a decode of all running, prefills beside it.

        The weights are read once a step, so a mixed step saves what a lone decode costs.
        """
        step_ms = prefill_ms
        if running:
            curve = self.decode_step.batch_ms
            step_ms += at(curve, running)
            step_ms += self.decode_step.ms_per_1000_tokens * context_tokens / 1e3
            if prefill_ms:
                step_ms -= at(curve, 1)
        return max(0.0, step_ms) * self.time_scale / 1e3

    def chunk_ms(self, done_tokens: int, chunk_tokens: int) -> float:
        """Return what a chunk of a prompt adds to a step after `done_tokens` of it (unscaled)."""
        whole_ms = at(self.prefill_ms, done_tokens + chunk_tokens)
        return whole_ms - at(self.prefill_ms, done_tokens)

    def handoff_s(self, size_bytes: int) -> float:
        """Return the duration of moving so many bytes."""
        transfer_ms = size_bytes / (self.handoff.gib_per_s * 2**30) * 1e3
        return (self.handoff.fixed_ms + transfer_ms) * self.time_scale / 1e3


def _override(tree: dict[str, Any], argument: str) -> None:
    path, equals, value = argument.partition("=")
    if not equals:
        raise SettingsError(
            f"engine argument {argument!r}: the simulated engine takes KEY=VALUE pairs that "
            "override its curves file, such as time_scale=0.01 or failures.encode_every=3"
        )
    *sections, leaf = path.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"engine argument {argument!r}: {name} is no section")
    tree[leaf] = yaml.safe_load(value)


def load_curves(path: Path | None, overrides: Iterable[str] = ()) -> CostCurves:
    """Read a curves file (None: the shipped one); what it leaves out is as in the shipped one.

    `overrides` are `section.key=value`. Raises `SettingsError` with one line.
    """
    tree = _read(DEFAULT_CURVES_FILE)
    if path is not None:
        _merge(tree, _read(path))
    try:
        for argument in overrides:
            _override(tree, argument)
    except yaml.YAMLError:
        raise SettingsError(f"engine argument {argument!r}: the value is not YAML") from None
    try:
        return CostCurves.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"cost curves {path or 'with overrides'}: {where}: {reason}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cost curves {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        line = (
            error.problem_mark.line + 1
            if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark
            else 1
        )
        raise SettingsError(f"cost curves {path}: line {line} is not YAML") from None
    if not isinstance(tree, dict):
        raise SettingsError(f"cost curves {path}: a mapping was expected")
    return tree


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
