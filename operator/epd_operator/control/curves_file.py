"""Cost curves from a file, in the format of the simulated engine's (docs/simulator.md)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from epd.api.curves import DEFAULT_CURVES_FILE
from epd.api.names import EngineType
from epd.api.v1alpha1 import EngineSpec
from epd.policy.curves import CostCurves, Curve

_GIB = 2**30


class CurvesError(ValueError):
    """A curves file cannot be used; the message is one line."""


def curves_of_engine(engine: EngineSpec, *, read_file: bool) -> CostCurves | None:
    """Return the cost curves of a simulated engine; None for a real one, which is measured.

    Args:
        engine: What runs in the workers.
        read_file: The file that it names is here, too; else such an engine is measured.

    Raises:
        CurvesError: The file cannot be used.
    """
    if engine.type is not EngineType.SIMULATED:
        return None
    chosen = engine.simulated and engine.simulated.cost_curves_file
    if chosen and not read_file:
        return None
    defaults: Mapping[str, Any] = yaml.safe_load(DEFAULT_CURVES_FILE.read_bytes())
    return read_curves(Path(chosen) if chosen else DEFAULT_CURVES_FILE, defaults)


def read_curves(path: Path, defaults: Mapping[str, Any] | None = None) -> CostCurves:
    """Return the curves in a YAML file.

    Args:
        path: The file.
        defaults: Sections and values that the file may leave out.

    Raises:
        CurvesError: It cannot be read, or a part of it is missing or no number.
    """
    try:
        tree = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise CurvesError(f"cost curves {path}: {error.strerror}") from None
    except yaml.YAMLError:
        raise CurvesError(f"cost curves {path}: not YAML") from None
    if not isinstance(tree, dict):
        raise CurvesError(f"cost curves {path}: a mapping was expected")
    try:
        return curves_of(_merged(defaults or {}, tree), str(path))
    except KeyError as error:
        raise CurvesError(f"cost curves {path}: {error.args[0]} is missing") from None
    except (TypeError, ValueError):
        raise CurvesError(f"cost curves {path}: numbers were expected") from None


def curves_of(tree: Mapping[str, Any], source: str) -> CostCurves:
    """Return the curves that a whole tree describes, its `time_scale` applied."""
    scale = float(tree.get("time_scale", 1.0))
    encode, step, handoff = tree["encode"], tree["decode_step"], tree["handoff"]
    return CostCurves(
        source=source,
        image_ms=_curve(encode["image_ms"], scale),
        prefill_ms=_curve(tree["prefill_ms"], scale),
        decode_ms=_curve(step["batch_ms"], scale),
        encode_run_ms=encode["batch_ms"] * scale,
        decode_token_ms=step["ms_per_1000_tokens"] / 1e3 * scale,
        handoff_ms=handoff["fixed_ms"] * scale,
        handoff_bytes_per_ms=handoff["gib_per_s"] * _GIB / 1e3 / (scale or 1.0),
        kv_bytes_per_token=handoff["kv_bytes_per_token"],
        ec_bytes_per_token=handoff["ec_bytes_per_token"],
        kv_tokens=tree["capacity"]["kv_tokens"],
    )


def _curve(points: list[list[float]], scale: float) -> Curve:
    return Curve(tuple((float(x), float(ms) * scale) for x, ms in points))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        merged[key] = _merged(inner, value) if both and isinstance(inner, dict) else value
    return merged
