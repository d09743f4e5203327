"""Draw the figure set: `python bench/figures.py [NAME ...]`; without names, all of it.

Writes build/figures/NAME.json and NAME.png; studies run in as many processes as there are cores.
A study whose trace is not there is skipped, and says so. Every seed is in the JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np

from epd.vocabulary import Method
from epd_sim import figures
from epd_sim.calibration import PUBLISHED, Ratio, ablation, compared
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.method_grid import OBJECTIVES, SHAPES, cell
from epd_sim.policies import Setup, run
from epd_sim.results import Slo
from epd_sim.scenarios import SCENARIOS, at_rate, drift, smooth, square_wave, with_offline
from epd_sim.study import Row, fluid_limit, sustained_rate
from epd_sim.traces import (
    AZURE_CODE,
    MOONCAKE,
    SERVEGEN_IMAGE,
    TraceError,
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
DRIFTING = (*OURS, "no-overflow")

Make = Callable[[float], Workload]


def _square(rate: float) -> Workload:
    return square_wave(rate, 360, SEED, period_s=180)


def _tides(rate: float) -> Workload:
    return square_wave(rate, 1200, SEED, period_s=600, low=0.0, high=1.0)


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
    rate = sustained_rate(setup, policy, make, low, high, steps=4)
    points = []
    for factor in (1.0, 1.33):
        workload = make(max(low, rate) * factor)
        outcome = run(setup, policy, workload)
        points.append({**asdict(Row.of(setup, outcome)), "fluid": fluid_limit(setup, workload)})
        if factor == 1.0:
            figures.draw_outcome(outcome, slo, OUT / f"{name}-{policy}.png")
    return {"policy": policy, "sustained_rate": rate, "points": points}


def ratio_one(ratio: Ratio) -> Any:
    """Return one split of the ratio study."""
    return compared(ratio)


def grid_one(shapes: str, slo: Slo) -> dict[str, Any]:
    """Return one cell of the method grid."""
    found = cell(Setup(COSTS, slo), shapes, slo)
    return {**asdict(found), "share": found.share}


def calibration(pool: ProcessPoolExecutor) -> Any:
    """Draw the ratio study; tell the ablation."""
    found = list(pool.map(ratio_one, PUBLISHED))
    figures.draw_calibration(found, OUT / "calibration.png")
    for c in found:
        print(
            f"  {c.ratio.method} {c.ratio.count}:{8 - c.ratio.count}  published "
            f"{c.ratio.ttft_s:5.2f} s  here {c.ttft_s:5.2f} s  {c.ttft_error:+.0%}"
        )
    steps = list(pool.map(ablation, range(3)))
    print(f"  ablation, goodput per GPU: {steps[0]}")
    return {
        "ratios": [{**asdict(c), "ttft_error": c.ttft_error} for c in found],
        "ablation": steps,
    }


def sweep(name: str, pool: ProcessPoolExecutor) -> Any:
    """Tell which rate each policy sustains."""
    policies = SWEEPS[name][3]
    rows = list(pool.map(sweep_one, [name] * len(policies), policies))
    for row in rows:
        print(f"  {row['policy']:12s} sustains {row['sustained_rate']:5.1f} requests/s")
    figures.draw_goodput(
        {r["policy"]: [(p["rate"], p["attainment"]) for p in r["points"]] for r in rows},
        OUT / f"{name}.png",
    )
    return rows


def method_grid(pool: ProcessPoolExecutor) -> Any:
    """Tell how good the closed form's pick of method and split is."""
    cells = [(shapes, slo) for shapes in SHAPES for slo in OBJECTIVES]
    rows = list(pool.map(grid_one, *zip(*cells, strict=True)))
    for row in rows:
        print(
            f"  {row['shapes']:12s} TTFT {row['slo']['ttft_ms']:g} ms: picked {row['picked'][0]}, "
            f"best {row['best'][0]}: {row['picked'][2]:.1f} of {row['best'][2]:.1f} requests/s, "
            f"{row['share']:.0%}; promised were {row['promised']:.1f}"
        )
    return rows


def offline_one(policy: str, online_rate: float, offline_rate: float) -> dict[str, Any]:
    """Return what online requests met, and the offline tokens that came beside them."""
    scenario = SCENARIOS["smooth"]
    workload: Workload = _smooth(online_rate)
    end_s = workload[-1].arrival_s
    if offline_rate:
        workload = with_offline(workload, offline_rate, end_s, SEED + 1)
    results = run(Setup(COSTS, scenario.slo), policy, workload).results
    is_online = np.array([request.shape.online for request in workload])
    in_time = ~is_online & (results.end_s <= end_s)
    return {
        "policy": policy,
        "online_rate": online_rate,
        "offline_rate": offline_rate,
        "online_attainment": float(results.good(scenario.slo)[is_online].mean()),
        "offline_tokens_per_s": float(results.output_tokens[in_time].sum() / end_s),
    }


def offline(pool: ProcessPoolExecutor) -> Any:
    """Tell what offline work costs online work, with classes and without."""
    cells = [
        (policy, online_rate, offline_rate)
        for online_rate, rates in ((16, (0, 20, 40)), (20, (0, 10, 40)))
        for offline_rate in rates
        for policy in ("elastic", "elastic-classes")
        if offline_rate or policy == "elastic"
    ]
    rows = list(pool.map(offline_one, *zip(*cells, strict=True)))
    for row in rows:
        print(
            f"  {row['policy']:16s} {row['online_rate']:g} online, {row['offline_rate']:g} offline"
            f": {row['online_attainment']:.1%} met, {row['offline_tokens_per_s']:,.0f} tokens/s"
        )
    return rows


def speed_one(policy: str) -> float:
    """Return the requests that a minute of CPU simulates, on eight pods behind two gateways."""
    workload = smooth(12, 300, SEED)
    began_s = process_time()
    run(Setup(COSTS, SCENARIOS["smooth"].slo), policy, workload)
    return 60 * len(workload) / (process_time() - began_s)


def speed(pool: ProcessPoolExecutor) -> Any:
    """Tell how fast the simulator is."""
    policies = ("elastic", "colocated", "arrow-v2")
    found = dict(zip(policies, pool.map(speed_one, policies), strict=True))
    for policy, requests in found.items():
        print(f"  {policy:12s} {requests:,.0f} requests a minute of CPU")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run studies; return 1 if one that was named cannot run."""
    studies: dict[str, Callable[[ProcessPoolExecutor], Any]] = {
        "calibration": calibration,
        **{name: partial(sweep, name) for name in SWEEPS},
        "method-grid": method_grid,
        "offline": offline,
        "speed": speed,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(studies))
    names = parser.parse_args(argv).names
    for name in names:
        if name not in studies:
            parser.error(f"no study {name!r}; there are {', '.join(studies)}")
    OUT.mkdir(parents=True, exist_ok=True)
    missing = 0
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name in names or studies:
            began_s = monotonic()
            print(f"{name}:", flush=True)
            try:
                found = studies[name](pool)
            except TraceError as error:
                print(f"  skipped: {error}")
                missing += bool(names)
                continue
            (OUT / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
            print(f"  {monotonic() - began_s:.0f} s", flush=True)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
