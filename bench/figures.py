"""Draw the figure set: `python bench/figures.py [NAME ...]`; without names, all of it.

Writes build/figures/NAME.json and NAME.png. The runs of all studies share as many processes as
there are cores; each study tells what it found, and the CPU time that took, once its own are done.
A study whose trace is not there is skipped, and says so. Every seed is in the JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from time import monotonic, process_time
from typing import Any

import numpy as np
from sweeps import COSTS, OUT, SEED, SWEEPS, sweep_one

from epd_sim import figures
from epd_sim.calibration import PUBLISHED, Ratio, ablation, compared
from epd_sim.method_grid import OBJECTIVES, SHAPES, cell
from epd_sim.policies import Setup, placer_for, run, serve
from epd_sim.results import Slo
from epd_sim.scenarios import SCENARIOS, smooth, with_offline
from epd_sim.sustained import splits
from epd_sim.traces import TraceError
from epd_sim.workload import Workload

SMOOTH_RATES = (20, 24, 26)
SMOOTH_SEEDS = (1, 2)

Tell = Callable[[], Any]
"""Waits for the runs of a study, tells what they found, and returns it as plain data."""


def ratio_one(ratio: Ratio) -> Any:
    """Return one split of the ratio study."""
    return compared(ratio)


def grid_one(shapes: str, slo: Slo) -> dict[str, Any]:
    """Return one cell of the method grid."""
    found = cell(Setup(COSTS, slo), shapes, slo)
    return {**asdict(found), "share": found.share}


def smooth_static_one(rate: float, seed: int) -> dict[str, Any]:
    """Return what every split, fixed, makes of smooth traffic, beside ours."""
    scenario = SCENARIOS["smooth"]
    setup = Setup(COSTS, scenario.slo)
    workload = smooth(rate, 180, seed)
    fixed = {
        tuple(counts.values()): serve(
            setup, "static", workload, (counts, placer_for(scenario.slo), None)
        ).results.attainment(scenario.slo)
        for counts in splits(setup.method, setup.pods)
    }
    best = max(fixed, key=lambda counts: fixed[counts])
    row: dict[str, Any] = {"rate": rate, "seed": seed, "best_split": best, "best": fixed[best]}
    for policy in ("elastic", "operator"):
        outcome = run(setup, policy, workload)
        row[policy] = outcome.results.attainment(scenario.slo)
        row[f"{policy}_flips"] = len(outcome.world.flips)
        row["first_split"] = tuple(outcome.first_split.values())
    row["first_split_fixed"] = fixed[row["first_split"]]
    return row


class Runs:
    """Runs of one study, in processes that all studies share.

    Attributes:
        cpu_s: What they took, as far as they have been looked at.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.cpu_s = 0.0
        self._pool = pool

    def map(self, function: Callable[..., Any], *columns: Any) -> Iterator[Any]:
        """Begin all runs now; yield their results in order."""
        pending = self._pool.map(partial(_timed, function), *columns)

        def results() -> Iterator[Any]:
            for found, cpu_s in pending:
                self.cpu_s += cpu_s
                yield found

        return results()


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began_s = process_time()
    return function(*arguments), process_time() - began_s


def calibration(runs: Runs) -> Tell:
    """Draw the ratio study; tell the ablation."""
    ratios, seeds = runs.map(ratio_one, PUBLISHED), runs.map(ablation, range(3))

    def tell() -> Any:
        found = list(ratios)
        figures.draw_calibration(found, OUT / "calibration.png")
        for c in found:
            print(
                f"  {c.ratio.method} {c.ratio.count}:{8 - c.ratio.count}  published "
                f"{c.ratio.ttft_s:5.2f} s  here {c.ttft_s:5.2f} s  {c.ttft_error:+.0%}"
            )
        steps = list(seeds)
        print(f"  ablation, goodput per GPU: {steps[0]}")
        return {
            "ratios": [{**asdict(c), "ttft_error": c.ttft_error} for c in found],
            "ablation": steps,
        }

    return tell


def sweep(name: str, runs: Runs) -> Tell:
    """Tell which rate each policy sustains."""
    policies = SWEEPS[name][3]
    found = runs.map(sweep_one, [name] * len(policies), policies)

    def tell() -> Any:
        rows = list(found)
        ours = rows[0]["sustained_rate"]
        for row in rows:
            rate, point = row["sustained_rate"], row["points"][0]
            print(
                f"  {row['policy']:12s} sustains {rate:6.2f} requests/s"
                f" (ours {ours / rate if rate else float('inf'):4.2f} x), {point['flips']} flips,"
                f" begins with {' '.join(map(str, point['first_split'].values()))}"
            )
        figures.draw_goodput(
            {r["policy"]: [(p["rate"], p["attainment"]) for p in r["points"]] for r in rows},
            OUT / f"{name}.png",
        )
        return rows

    return tell


def smooth_static(runs: Runs) -> Tell:
    """Tell how ours compares with every fixed split of smooth traffic."""
    cells = [(rate, seed) for rate in SMOOTH_RATES for seed in SMOOTH_SEEDS]
    found = runs.map(smooth_static_one, *zip(*cells, strict=True))

    def tell() -> Any:
        rows = list(found)
        for row in rows:
            print(
                f"  {row['rate']:g} requests/s, seed {row['seed']}: elastic {row['elastic']:.1%}"
                f" ({row['elastic_flips']} flips), operator {row['operator']:.1%}"
                f" ({row['operator_flips']}); {row['first_split']} fixed"
                f" {row['first_split_fixed']:.1%}; best {row['best_split']} {row['best']:.1%}"
            )
        return rows

    return tell


def method_grid(runs: Runs) -> Tell:
    """Tell how good the closed form's pick of method and split is."""
    cells = [(shapes, slo) for shapes in SHAPES for slo in OBJECTIVES]
    found = runs.map(grid_one, *zip(*cells, strict=True))

    def tell() -> Any:
        rows = list(found)
        for row in rows:
            print(
                f"  {row['shapes']:12s} TTFT {row['slo']['ttft_ms']:g} ms: picked"
                f" {row['picked'][0]}, best {row['best'][0]}: {row['picked'][2]:.1f} of"
                f" {row['best'][2]:.1f} requests/s, {row['share']:.0%}; promised were"
                f" {row['promised']:.1f}"
            )
        return rows

    return tell


def offline_one(policy: str, online_rate: float, offline_rate: float) -> dict[str, Any]:
    """Return what online requests met, and the offline tokens that came beside them."""
    scenario = SCENARIOS["smooth"]
    workload: Workload = smooth(online_rate, 180, SEED)
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


def offline(runs: Runs) -> Tell:
    """Tell what offline work costs online work, with classes and without."""
    cells = [
        (policy, online_rate, offline_rate)
        for online_rate, rates in ((16, (0, 20, 40)), (20, (0, 10, 40)))
        for offline_rate in rates
        for policy in ("elastic", "elastic-classes")
        if offline_rate or policy == "elastic"
    ]
    found = runs.map(offline_one, *zip(*cells, strict=True))

    def tell() -> Any:
        rows = list(found)
        for row in rows:
            print(
                f"  {row['policy']:16s} {row['online_rate']:g} online, {row['offline_rate']:g}"
                f" offline: {row['online_attainment']:.1%} met,"
                f" {row['offline_tokens_per_s']:,.0f} tokens/s"
            )
        return rows

    return tell


def speed_one(policy: str) -> float:
    """Return the requests that a minute of CPU simulates, on eight pods behind two gateways."""
    workload = smooth(12, 300, SEED)
    began_s = process_time()
    run(Setup(COSTS, SCENARIOS["smooth"].slo), policy, workload)
    return 60 * len(workload) / (process_time() - began_s)


def speed(runs: Runs) -> Tell:
    """Tell how fast the simulator is."""
    policies = ("elastic", "colocated", "arrow-v2")
    rates = runs.map(speed_one, policies)

    def tell() -> Any:
        found = dict(zip(policies, rates, strict=True))
        for policy, requests in found.items():
            print(f"  {policy:12s} {requests:,.0f} requests a minute of CPU")
        return found

    return tell


def main(argv: Sequence[str] | None = None) -> int:
    """Run studies; return 1 if one that was named cannot run."""
    studies: dict[str, Callable[[Runs], Tell]] = {
        **{name: partial(sweep, name) for name in SWEEPS},
        "method-grid": method_grid,
        "calibration": calibration,
        "smooth-static": smooth_static,
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
    missing, cpu_s, began_s = 0, 0.0, monotonic()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        begun = {}
        for name in names or studies:
            runs = Runs(pool)
            begun[name] = (runs, studies[name](runs))
        for name, (runs, tell) in begun.items():
            print(f"{name}:", flush=True)
            try:
                found = tell()
            except TraceError as error:
                print(f"  skipped: {error}")
                missing += bool(names)
                continue
            (OUT / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
            cpu_s += runs.cpu_s
            print(f"  {runs.cpu_s:.0f} s of CPU", flush=True)
    print(f"{monotonic() - began_s:.0f} s in all, {cpu_s:.0f} s of CPU")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
