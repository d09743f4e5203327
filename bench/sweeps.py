"""Traffic at many rates: which rate does each policy sustain, and what becomes of a third more?"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from epd.vocabulary import Method
from epd_sim import figures
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.policies import Setup, placer_for, run, serve
from epd_sim.results import Slo
from epd_sim.scenarios import SCENARIOS, at_rate, drift, smooth, square_wave
from epd_sim.study import Row, fluid_limit
from epd_sim.sustained import best_static, sustained_rate
from epd_sim.traces import (
    AZURE_CODE,
    MOONCAKE,
    SERVEGEN_IMAGE,
    azure,
    find_trace,
    mooncake,
    servegen,
)
from epd_sim.workload import Workload

OUT = Path("build/figures")
SEED = 1
# Three times the kernel times of an 8B model on an H200: about a 32B model, or a smaller GPU.
COSTS = H200_QWEN3_VL_8B.slowed(3)
RIVALS = ("operator", "colocated", "best-static", "arrow-v2", "churn-180", "churn-5")
OURS = ("elastic", "clairvoyant")
DRIFTING = (*OURS, "no-overflow", "lexicographic")

Make = Callable[[float], Workload]


def _square(rate: float) -> Workload:
    return square_wave(rate, 360, SEED, period_s=180)


def _tides(rate: float) -> Workload:
    return square_wave(rate, 900, SEED, period_s=600, low=0.0, high=1.0)


def _drift(rate: float) -> Workload:
    return drift(rate, 600, SEED)


def _smooth(rate: float) -> Workload:
    return smooth(rate, 180, SEED)


def _azure(rate: float) -> Workload:
    # The whole trace at a higher rate: its hour becomes minutes, and bursts stay bursts.
    trace = azure(find_trace(AZURE_CODE))
    return at_rate(trace, rate, len(trace) / rate)


def _mooncake(rate: float) -> Workload:
    trace = mooncake(find_trace(MOONCAKE))[:1500]
    return at_rate(trace, rate, len(trace) / rate)


def _servegen(rate: float) -> Workload:
    trace = servegen(find_trace(SERVEGEN_IMAGE), SEED, from_s=36_000, seconds=7200)
    return at_rate(trace, rate, 240)


SWEEPS: dict[str, tuple[Make, Slo, Method, tuple[str, ...], float, float]] = {
    "square-wave": (
        _square,
        SCENARIOS["square-wave"].slo,
        Method.E_P_D,
        (*DRIFTING, *RIVALS),
        4,
        24,
    ),
    "square-wave-ep-d": (
        _square,
        SCENARIOS["square-wave"].slo,
        Method.EP_D,
        (*OURS, "best-static"),
        4,
        24,
    ),
    "tides": (_tides, SCENARIOS["square-wave"].slo, Method.E_P_D, (*DRIFTING, *RIVALS), 3, 24),
    "drift": (_drift, SCENARIOS["drift"].slo, Method.E_P_D, (*DRIFTING, *RIVALS), 4, 24),
    "smooth": (_smooth, SCENARIOS["smooth"].slo, Method.E_P_D, (*OURS, "best-static"), 4, 24),
    "azure-code": (
        _azure,
        Slo(ttft_ms=3000, tpot_ms=100),
        Method.EP_D,
        (
            "elastic",
            "no-overflow",
            "least-load",
            "best-static",
            "arrow-v1",
            "arrow-v2",
            "xllm",
        ),
        2,
        18,
    ),
    "mooncake": (
        _mooncake,
        Slo(ttft_ms=30_000, tpot_ms=100),
        Method.EP_D,
        ("elastic", "no-affinity"),
        0.5,
        16,
    ),
    "servegen-image": (
        _servegen,
        SCENARIOS["drift"].slo,
        Method.E_P_D,
        (*OURS, *RIVALS),
        4,
        44,
    ),
}


def sweep_one(name: str, policy: str) -> dict[str, Any]:
    """Return the rate a policy sustains, and what it makes of that and of a third more."""
    make, slo, method, _, low, high = SWEEPS[name]
    setup = Setup(COSTS, slo, method=method)
    counts = None
    if policy == "best-static":
        counts, rate = best_static(setup, make, low, high)
    else:
        rate = sustained_rate(setup, policy, make, low, high)
    points = []
    for factor in (1.0, 1.33):
        workload = make(max(low, rate) * factor)
        if counts:
            outcome = serve(setup, policy, workload, (counts, placer_for(slo), None))
        else:
            outcome = run(setup, policy, workload)
        points.append({**asdict(Row.of(setup, outcome)), "fluid": fluid_limit(setup, workload)})
        if factor == 1.0:
            figures.draw_outcome(outcome, slo, OUT / f"{name}-{policy}.png")
    return {"policy": policy, "sustained_rate": rate, "points": points}
