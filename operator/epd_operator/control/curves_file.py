"""Cost curves from a file (docs/simulator.md) as the policy knows them."""

from pathlib import Path

from epd.api.curves import CurvesFile
from epd.api.names import EngineType
from epd.api.v1alpha1 import EngineSpec
from epd.policy.curves import CostCurves, Curve

_GIB = 2**30


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
    return curves_of(CurvesFile.read(Path(chosen) if chosen else None))


def curves_of(file: CurvesFile) -> CostCurves:
    """Return the curves of a file, its `time_scale` applied."""
    scale, handoff = file.time_scale, file.handoff
    return CostCurves(
        source=file.source,
        image_ms=_curve(file.encode.image_ms, scale),
        prefill_ms=_curve(file.prefill_ms, scale),
        decode_ms=_curve(file.decode_step.batch_ms, scale),
        encode_run_ms=file.encode.batch_ms * scale,
        decode_token_ms=file.decode_step.ms_per_1000_tokens / 1e3 * scale,
        handoff_ms=handoff.fixed_ms * scale,
        ec_handoff_ms=handoff.embedding_ms * scale,
        handoff_bytes_per_ms=handoff.gib_per_s * _GIB / 1e3 / (scale or 1.0),
        kv_bytes_per_token=handoff.kv_bytes_per_token,
        ec_bytes_per_token=handoff.ec_bytes_per_token,
        kv_tokens=file.capacity.kv_tokens,
    )


def _curve(points: list[tuple[float, float]], scale: float) -> Curve:
    return Curve(tuple((x, ms * scale) for x, ms in points))
