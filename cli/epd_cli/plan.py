"""`epd plan`: how many pods, which method and which split a traffic and an objective ask for."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from epd_cli.simulate import split_text, write_text
from epd_cli.study_traffic import Traffic, bar, setup_of
from epd_cli.tables import print_table
from epd_sim.study import FleetPlan, plan_fleet


def run(options: argparse.Namespace) -> int:
    """Look for the smallest fleet of each method; exit 1 if none of them is large enough."""
    traffic = Traffic(options)
    setup = setup_of(options, traffic.slo)
    workload = traffic.at(options.rate)
    plans: list[FleetPlan] = []
    with bar(4) as progress:
        for plan in plan_fleet(setup, workload, options.pods):
            plans.append(plan)
            progress.advance(progress.tasks[0].id)
    plans.sort(key=lambda plan: (not plan.meets_slo, plan.pods, -plan.attainment))
    document = {
        "traffic": traffic.name,
        "rate": options.rate,
        "seed": options.seed,
        "costs": setup.costs.name,
        "slo": asdict(setup.slo),
        "plans": [
            {
                "method": plan.choice.method,
                "pods": plan.pods,
                "split": dict(plan.choice.pods),
                "attainment": plan.attainment,
                "meets_slo": plan.meets_slo,
                "predicted_requests_per_s": plan.choice.requests_per_s,
                "weakest": plan.choice.weakest,
            }
            for plan in plans
        ],
    }
    text = json.dumps(document, indent=2)
    if options.json:
        write_text(Path(options.json), text + "\n")
    if options.output == "json":
        print(text)
    else:
        _print(options, setup.costs.name, traffic, plans)
    return 0 if any(plan.meets_slo for plan in plans) else 1


def _print(
    options: argparse.Namespace, costs: str, traffic: Traffic, plans: list[FleetPlan]
) -> None:
    slo = traffic.slo
    print(f"{traffic.name}, {options.rate:g} requests a second; {costs}; seed {options.seed}")
    print(
        f"SLO: TTFT {slo.ttft_ms:g} ms, TPOT {slo.tpot_ms:g} ms ({slo.tpot} of gaps), "
        f"{slo.attainment:.0%} of requests\n"
    )
    print_table(
        ("METHOD", "PODS", "SPLIT", "MET SLO", "WEAKEST"),
        [
            (
                str(plan.choice.method),
                str(plan.pods) if plan.meets_slo else f"more than {plan.pods}",
                split_text(plan.choice.pods),
                f"{plan.attainment:.1%}",
                str(plan.choice.weakest),
            )
            for plan in plans
        ],
    )
    best = plans[0]
    if best.meets_slo:
        print(f"\n{best.pods} pods, method {best.choice.method}.")
    else:
        print(f"\nNo method meets the SLO with {best.pods} pods: allow more with --pods.")
