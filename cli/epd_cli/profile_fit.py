"""From what a live worker took to a curves file: least squares, residuals, held-out lengths. Pure.

An encoder run takes `batch_ms` and a part for each image; a decode step a part by its batch and
reading its contexts; a prefill is linear and quadratic in its tokens where that explains it, else
the straight lines between what was measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import median
from typing import Any, Final, TypeVar

from epd.policy.curves import Curve, fit_quadratic, least_squares

GOOD_FIT: Final = 0.05
"""A formula that misses a measured prefill by more is not used."""

_GRID_FACTOR: Final = sqrt(2.0)
_Group = TypeVar("_Group")


@dataclass
class Measured:
    """What a worker took, in milliseconds; sizes in tokens.

    Attributes:
        encode: (tokens of one image, images, ms of the run).
        prefill: (prompt, ms).
        decode: (sequences, context of all of them together, ms of a step).
        held_out: (prompt, ms until the first token), for no fit.
        handoff: ("KV" or "EC", bytes, ms that the taker waited).
        ec_bytes_per_token: Of an embedding; 0: not seen.
        kv_bytes_per_token: Of the KV cache; 0: not seen.
        rounds: How often each size was measured.
        noise: How far two measurements of the same lengths differ, as a share; None: not known.
    """

    encode: list[tuple[int, int, float]] = field(default_factory=list)
    prefill: list[tuple[int, float]] = field(default_factory=list)
    decode: list[tuple[int, float, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    handoff: list[tuple[str, int, float]] = field(default_factory=list)
    ec_bytes_per_token: int = 0
    kv_bytes_per_token: int = 0
    rounds: int = 0
    noise: float | None = None


@dataclass(frozen=True, slots=True)
class Residual:
    """One measurement beside what the curves say of it.

    Attributes:
        what: The stage and its size.
        measured_ms: As measured.
        fitted_ms: As the curves have it.
    """

    what: str
    measured_ms: float
    fitted_ms: float

    @property
    def error(self) -> float:
        """The curves' error as a share of the measurement, signed."""
        return self.fitted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class Fit:
    """What was made of the measurements.

    Attributes:
        sections: Of a curves file.
        residuals: Of the measurements that went into it.
        held_out: Of those that did not.
    """

    sections: Mapping[str, Any]
    residuals: Sequence[Residual]
    held_out: Sequence[Residual]

    @property
    def held_out_error(self) -> float:
        """Median error of the predicted TTFT at lengths that were not fitted."""
        return median(abs(residual.error) for residual in self.held_out)


def fit(measured: Measured) -> Fit:
    """Fit everything that was measured; stages without measurements are left out."""
    prefill = _prefill(measured.prefill)
    points = Curve(tuple(prefill))
    residuals = [
        Residual(f"prefill {tokens} tokens", ms, points.at(tokens))
        for tokens, ms in measured.prefill
    ]
    sections: dict[str, Any] = {"prefill_ms": _rounded(prefill)}
    if measured.decode:
        read_ms, steps = _shared(
            [(batch, tokens, 1.0, ms) for batch, tokens, ms in measured.decode]
        )
        sections["decode_step"] = {
            "batch_ms": _rounded(sorted(steps.items())),
            "ms_per_1000_tokens": round(read_ms * 1e3, 6),
        }
        residuals += [
            Residual(f"decode of {batch}, {tokens:.0f} tokens", ms, steps[batch] + read_ms * tokens)
            for batch, tokens, ms in measured.decode
        ]
    if measured.encode:
        run_ms, images = _shared([(size, 1.0, count, ms) for size, count, ms in measured.encode])
        sections["encode"] = {
            "batch_ms": round(run_ms, 4),
            "image_ms": _rounded(sorted(images.items())),
        }
        residuals += [
            Residual(f"encode {count} x {size} tokens", ms, run_ms + count * images[size])
            for size, count, ms in measured.encode
        ]
    if measured.handoff:
        sections["handoff"], off = _handoff(measured.handoff)
        residuals += off
    held_out = [
        Residual(f"TTFT of {tokens} tokens", ms, points.at(tokens))
        for tokens, ms in measured.held_out
    ]
    return Fit(sections, residuals, held_out)


def _prefill(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Return a curve through or near the points, from 0 tokens on."""
    known = sorted(points)
    formula = fit_quadratic(known)
    if all(abs(formula.at(x) / ms - 1) <= GOOD_FIT for x, ms in known):
        grid, x = [0.0], float(known[0][0])
        while x < known[-1][0]:
            grid.append(x)
            x *= _GRID_FACTOR
        return [(x, formula.at(x)) for x in (*grid, known[-1][0])]
    (x0, y0), (x1, y1) = (*known, *known)[:2]
    start = y0 - (y1 - y0) * x0 / (x1 - x0) if x1 > x0 else y0
    return [(0.0, max(0.0, start)), *known]


def _handoff(
    moved: Sequence[tuple[str, int, float]],
) -> tuple[dict[str, Any], list[Residual]]:
    """Return a curves file's handoff section, and how far each measurement is off it.

    EC and KV share the link; what each costs besides its bytes is its own.
    """
    byte_ms, fixed_ms = _shared([(kind, size, 1.0, ms) for kind, size, ms in moved])
    sizes = [size for _, size, _ in moved]
    if not byte_ms:
        # The bytes do not show beside the fixed part: the link is at least so fast.
        byte_ms = GOOD_FIT * max(fixed_ms.values()) / max(sizes)
    kv_ms = fixed_ms.get("KV", max(fixed_ms.values()))
    section: dict[str, Any] = {"fixed_ms": round(kv_ms, 4)}
    if "EC" in fixed_ms:
        section["ec_fixed_ms"] = round(fixed_ms["EC"], 4)
    section["gib_per_s"] = round(1e3 / byte_ms / 2**30, 4)
    section["measured_bytes"] = [min(sizes), max(sizes)]
    return section, [
        Residual(f"{kind} of {size / 2**20:.3g} MiB", ms, fixed_ms[kind] + byte_ms * size)
        for kind, size, ms in moved
    ]


def _shared(
    rows: Iterable[tuple[_Group, float, float, float]],
) -> tuple[float, dict[_Group, float]]:
    """Return (a, b) of ms = a u + b[group] v by least squared relative error, none negative.

    Args:
        rows: (group, u, v, ms).
    """
    known = list(rows)
    groups = list(dict.fromkeys(group for group, *_ in known))
    kept = list(groups)
    while len(known) > len(groups):
        table = [
            [u / ms, *(v / ms if group == of else 0.0 for of in kept)] for group, u, v, ms in known
        ]
        shared, *own = least_squares(table, [1.0] * len(known))
        if shared < 0:
            break
        if not own or min(own) >= 0:
            return shared, {**dict.fromkeys(groups, 0.0), **dict(zip(kept, own, strict=True))}
        del kept[own.index(min(own))]
    means = {}  # too little, or too noisy, to tell the two apart
    for group in groups:
        parts = [(v, ms) for of, _, v, ms in known if of == group]
        means[group] = sum(ms for _, ms in parts) / sum(v for v, _ in parts)
    return 0.0, means


def _rounded(points: Iterable[tuple[float, float]]) -> list[list[float]]:
    return [[round(x, 1), round(ms, 4)] for x, ms in points]
