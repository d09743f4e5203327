"""Measure: `python bench/run.py [NAME ...]`; without names, all that can run on this machine.

Prints tables and writes build/bench/NAME.json: machine, load average, medians, ratios, every round.
Baselines are measured in the same run. Nothing is asserted about time.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import report
from programs import MeasurementError
from report import Options, say

MEASUREMENTS = {
    "gateway": "gateway_bench",
    "race": "race",
    "vllm": "vllm_bench",
    "handoff": "handoff",
    "encode_ways": "encode_ways",
    "policy": "policy",
    "operator": "operator_bench",
    "telemetry": "telemetry",
}
EXPLICIT_ONLY = ("race", "operator", "telemetry")
"""Needs other gateways, a Kubernetes to itself, or minutes: measured only when named."""
INTERRUPTED = 130


def arguments(argv: Sequence[str] | None = None) -> tuple[list[str], Options]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--loadgen",
        type=Path,
        default=os.environ.get("EPD_LOADGEN"),
        help="an llmload in place of our load generator, for text (or EPD_LOADGEN)",
    )
    parser.add_argument("--mockllm", type=Path, help="a mockllm in place of our mock, in the race")
    given = parser.parse_args(argv)
    unknown = [name for name in given.names if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}")
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    for tool in (given.loadgen, given.mockllm):
        if tool is not None and not os.access(tool, os.X_OK):
            parser.error(f"{tool}: not a program that can be run")
    names = given.names or [name for name in MEASUREMENTS if name not in EXPLICIT_ONLY]
    rounds = 1 if given.quick else given.rounds
    loadgen = given.loadgen and Path(given.loadgen).resolve()
    mockllm = given.mockllm and given.mockllm.resolve()
    return names, Options(given.quick, rounds, loadgen, mockllm)


def measure(name: str, module: ModuleType, options: Options) -> None:
    """Make one measurement, print it and write it."""
    facts = {
        "machine": report.machine(),
        "quick": options.quick,
        "rounds": options.rounds,
        "load_average_at_start": report.load_average(),
    }
    say(f"{name}: load average {facts['load_average_at_start']}")
    found = module.measure(options)
    facts["load_average_at_end"] = report.load_average()
    path = report.write(name, found, facts)
    for table in found.tables:
        print(f"\n{table.text()}", flush=True)
    print(f"\nwritten to {path}\n", flush=True)


def main() -> int:
    """Measure what was asked for; return the exit status."""
    names, options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 0
    for name in names:
        module = importlib.import_module(MEASUREMENTS[name])
        if reason := module.missing():
            print(f"{name}: not measured: {reason}", flush=True)
            continue
        try:
            measure(name, module, options)
        except MeasurementError as error:
            print(f"{name}: not measured: {error}", file=sys.stderr, flush=True)
            status = 1
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted", file=sys.stderr)
            return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
