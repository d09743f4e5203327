"""`epd simulate`: policies beside each other in the simulated world."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from epd.vocabulary import Role
from epd_cli.failures import CommandError
from epd_cli.study_traffic import MODELS, Traffic, bar, chosen, setup_of
from epd_cli.tables import print_table
from epd_sim import figures
from epd_sim.policies import POLICIES, Setup
from epd_sim.policies import run as run_policy
from epd_sim.results import Tpot
from epd_sim.scenarios import SCENARIOS
from epd_sim.study import Row, fluid_limit

COLUMNS: Final = (
    "POLICY",
    "MET SLO",
    "GOOD/S",
    "TTFT ms p50/p90/p99",
    "TPOT ms p50/p90/p99",
    "FLIPS",
    "HANDOFFS",
    "RETRIES",
    "FIRST SPLIT",
)


def run(options: argparse.Namespace) -> int:
    """Simulate, and print, write and draw what came of it."""
    if options.list:
        _list()
        return 0
    traffic = Traffic(options)
    setup = setup_of(options, traffic.slo)
    elastic = replace(setup.elastic, interval_s=options.interval_s)
    setup = replace(setup, elastic=elastic, churn_start_s=options.start_s)
    names = list(POLICIES) if options.policy == "all" else options.policy.split(",")
    for name in names:
        chosen(POLICIES, name, "policy")
    loads = []
    curves: dict[str, list[tuple[float, float]]] = {}
    with bar(len(options.rate) * len(names)) as progress:
        for rate in options.rate:
            workload = traffic.at(rate)
            rows = []
            for name in names:
                progress.update(progress.tasks[0].id, description=f"{name} at {rate:g}/s")
                outcome = run_policy(setup, name, workload)
                rows.append(Row.of(setup, outcome))
                curves.setdefault(name, []).append((rows[-1].rate, rows[-1].attainment))
                if options.plots:
                    path = Path(options.plots) / f"{name}-{rate:g}.png"
                    with _drawing():
                        figures.draw_outcome(outcome, setup.slo, path)
                progress.advance(progress.tasks[0].id)
            loads.append({"fluid_per_s": fluid_limit(setup, workload), "policies": rows})
    if options.plots and len(options.rate) > 1:
        with _drawing():
            figures.draw_goodput(curves, Path(options.plots) / "goodput.png")
    _report(options, setup, traffic.name, loads)
    return 0


def _report(
    options: argparse.Namespace, setup: Setup, traffic: str, loads: list[dict[str, Any]]
) -> None:
    document = {
        "traffic": traffic,
        "costs": setup.costs.name,
        "pods": setup.pods,
        "method": str(setup.method),
        "seed": options.seed,
        "slo": asdict(setup.slo),
        "loads": [
            {**load, "policies": [asdict(row) for row in load["policies"]]} for load in loads
        ],
    }
    text = json.dumps(document, indent=2)
    if options.json:
        write_text(Path(options.json), text + "\n")
    if options.output == "json":
        print(text)
        return
    slo = setup.slo
    print(f"{traffic} on {setup.pods} pods: {setup.costs.name}; seed {options.seed}")
    print(
        f"SLO: TTFT {slo.ttft_ms:g} ms, TPOT {slo.tpot_ms:g} ms ({slo.tpot} of gaps), "
        f"{slo.attainment:.0%} of requests"
    )
    for load in loads:
        rows: list[Row] = load["policies"]
        print(f"\n{rows[0].rate:.1f} requests a second (fluid limit {load['fluid_per_s']:.1f})")
        print_table(COLUMNS, [_cells(row, setup) for row in rows])


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        CommandError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def split_text(counts: Mapping[Role, int]) -> str:
    """Return a split in words, such as `2 encode, 3 prefill, 3 decode`."""
    return ", ".join(f"{count} {role}" for role, count in counts.items())


def _cells(row: Row, setup: Setup) -> list[str]:
    tpot_ms = row.tpot_mean_ms if setup.slo.tpot is Tpot.MEAN else row.tpot_p90_ms
    return [
        row.policy,
        f"{row.attainment:.1%}",
        f"{row.goodput:.2f}",
        "/".join(f"{ms:.0f}" for ms in row.ttft_ms),
        "/".join(f"{ms:.1f}" for ms in tpot_ms),
        str(row.flips),
        str(row.handoffs),
        str(row.retries),
        split_text(row.first_split),
    ]


@contextmanager
def _drawing() -> Iterator[None]:
    try:
        yield
    except figures.NoMatplotlibError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot write plots: {error}") from None


def _list() -> None:
    print_table(("SCENARIO", ""), [(s.name, s.summary) for s in SCENARIOS.values()])
    print()
    print_table(("POLICY", ""), [(p.name, p.summary) for p in POLICIES.values()])
    print()
    print_table(("MODEL", ""), [(name, costs.name) for name, costs in MODELS.items()])
    sys.stdout.flush()
