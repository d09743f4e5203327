"""`python hack/kube`: beds for a person at a terminal, and for `make demo`.

A bed that was started lives until `down`, in the hands of a process of its own, its keeper.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kube import binaries, keeper
from kube.bed import BedError

DEFAULT_FOLDER = binaries.ROOT / "build" / "kube"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (binaries.UnavailableError, BedError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python hack/kube", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "up", _up, "start a control plane (no root, no node)")
    _command(commands, "down", _down, "end it")
    # What `up` starts in the background; nobody types it.
    keep = _command(commands, "keep", _keep, "hold a bed until SIGTERM")
    keep.add_argument("kind", choices=sorted(keeper.BEDS))
    programs = _command(
        commands, "programs", _programs, "find or fetch programs; print their paths"
    )
    programs.add_argument("names", nargs="+", metavar="PROGRAM")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: object,
    meaning: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=meaning, description=meaning)
    parser.set_defaults(run=run)
    if name != "programs":
        parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, help="where its files lie")
    return parser


def _up(options: argparse.Namespace) -> int:
    kubeconfig = keeper.start("control-plane", options.dir)
    print(f"export KUBECONFIG={kubeconfig}")
    return 0


def _keep(options: argparse.Namespace) -> int:
    return keeper.keep(options.kind, options.dir)


def _down(options: argparse.Namespace) -> int:
    keeper.stop(options.dir)
    return 0


def _programs(options: argparse.Namespace) -> int:
    for path in binaries.find(*options.names).values():
        print(path)
    return 0
