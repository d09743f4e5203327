"""The options of `epd simulate`, `epd plan` and `kubectl epd plan`; looked up when they run."""

import argparse
from math import isfinite
from typing import Final

SIMULATE_EXAMPLES: Final = """\
  epd simulate                                      ours beside the others, drifting images
  epd simulate square-wave --rate 12,16 --plots out two loads, and what happened in each
  epd simulate smooth --policy elastic,best-static  two policies on steady traffic
  epd simulate --trace azure:code.csv --rate 20     a public trace at 20 requests a second
  epd simulate --list                               every scenario, policy and model

A policy says who places a stage and who changes roles. `elastic` is ours, by the very code that
gateway and operator run; the others are what it is compared with. `fluid` in the title is what no
split of this fleet can exceed. Equal seeds give equal results.
"""

PLAN_EXAMPLES: Final = """\
  epd plan --rate 10                                half of the requests with images
  epd plan square-wave --rate 14 --ttft-ms 1000     another traffic, a stricter objective
  epd plan --trace azure:code.csv --rate 20 --pods 32

For each method: the smallest fleet, and its split, with which the simulated traffic meets the SLO.
"""


def add_simulate(command: argparse.ArgumentParser) -> None:
    """Add the options of `epd simulate`."""
    _add_traffic(command, "drift", rates=True)
    command.add_argument(
        "--policy",
        default="elastic,colocated,best-static,clairvoyant",
        metavar="NAME,…",
        help="who places and who flips; all: every one of --list (%(default)s)",
    )
    command.add_argument("--pods", type=_count, default=8, metavar="N", help="(%(default)s)")
    command.add_argument(
        "--method",
        default="E-P-D",
        metavar="METHOD",
        help="how policies with a method split the fleet: EPD, EP-D, ED-P, E-P-D (%(default)s)",
    )
    command.add_argument(
        "--interval-s", type=_positive, default=5.0, metavar="S", help="control loop (%(default)s)"
    )
    command.add_argument(
        "--start-s",
        type=_positive,
        default=120.0,
        metavar="S",
        help="how long a new pod takes, for policies that create pods (%(default)s)",
    )
    command.add_argument("--plots", metavar="DIR", help="draw each run, and attainment over rate")
    command.add_argument("--list", action="store_true", help="list what can be chosen, and end")


def add_plan(command: argparse.ArgumentParser) -> None:
    """Add the options of `epd plan`."""
    _add_traffic(command, "smooth", rates=False)
    command.add_argument(
        "--pods", type=_count, default=32, metavar="N", help="at most so many (%(default)s)"
    )


def add_live_plan(command: argparse.ArgumentParser) -> None:
    """Add the options of `kubectl epd plan`."""
    command.add_argument("cluster", metavar="CLUSTER")
    command.add_argument(
        "--prometheus",
        metavar="URL|NAMESPACE/SERVICE:PORT",
        help="where its metrics are; a Service is reached by a forwarded port",
    )
    command.add_argument(
        "--curves",
        metavar="FILE",
        help="what its stages cost, by epd profile (default: those of a simulated engine)",
    )
    command.add_argument(
        "--window-s",
        type=_positive,
        default=600.0,
        metavar="S",
        help="traffic of so many seconds (%(default)s)",
    )
    command.add_argument(
        "--image-tokens",
        type=_positive,
        metavar="N",
        help="of an image, where images are encoded with their prompts and nobody counts",
    )
    command.add_argument(
        "--pods", type=_count, default=32, metavar="N", help="at most so many (%(default)s)"
    )
    command.add_argument(
        "--seconds",
        type=_positive,
        metavar="S",
        help="of arrivals to simulate (default: some 5,000 requests, 60 to 300 s)",
    )
    command.add_argument("--seed", type=_whole, default=1, metavar="N", help="(%(default)s)")


def _add_traffic(command: argparse.ArgumentParser, scenario: str, *, rates: bool) -> None:
    command.add_argument(
        "scenario", nargs="?", default=scenario, metavar="SCENARIO", help="(%(default)s)"
    )
    command.add_argument(
        "--trace",
        metavar="KIND:PATH",
        help="a public trace instead: azure:FILE.csv, mooncake:FILE.jsonl, servegen:FOLDER",
    )
    command.add_argument(
        "--rate",
        type=_rates if rates else _positive,
        default=[10.0] if rates else 10.0,
        metavar="R,…" if rates else "R",
        help="requests a second (10)",
    )
    command.add_argument(
        "--seconds", type=_positive, default=300.0, metavar="S", help="of arrivals (%(default)s)"
    )
    command.add_argument("--seed", type=_whole, default=1, metavar="N", help="(%(default)s)")
    command.add_argument(
        "--model",
        default="qwen3-vl-8b-h200",
        metavar="NAME|FILE",
        help="cost curves: one of --list, or a file of `epd profile` (%(default)s)",
    )
    command.add_argument(
        "--slower",
        type=_positive,
        default=3.0,
        metavar="F",
        help="every computation takes F times as long as the curves say: a larger model, or a "
        "smaller GPU (%(default)s)",
    )
    command.add_argument(
        "--ttft-ms", type=_positive, metavar="MS", help="objective (default: the scenario's)"
    )
    command.add_argument(
        "--tpot-ms", type=_positive, metavar="MS", help="objective (default: the scenario's)"
    )
    command.add_argument(
        "--tpot",
        choices=("mean", "p90"),
        help="which TPOT: a request's mean gap, or the 90th percentile of its gaps",
    )
    command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    command.add_argument("--json", metavar="FILE", help="write what was found there as well")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _rates(text: str) -> list[float]:
    return [_positive(part) for part in text.split(",")]


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)
