"""`python hack/kube`: beds for a person at a terminal, and for `make demo`.

A bed that was started lives until `down`, in the hands of a process of its own, its keeper.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from kube import binaries, keeper, node_programs
from kube.bed import BedError
from kube.child import python_module

BUILD = binaries.ROOT / "build"

Run = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    run: Run = options.run
    try:
        return run(options)
    except (binaries.UnavailableError, BedError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python hack/kube", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_bed(commands, "control-plane", "a control plane (no root, no node)")
    node = commands.add_parser("node", help="a real node with its control plane (needs root)")
    of_node = node.add_subparsers(required=True, metavar="COMMAND")
    _add_bed(of_node, "node", "the node")
    enter = _add(of_node, "enter", _enter, "run a command in the node's network")
    enter.add_argument("--dir", type=Path, default=BUILD / "node", help="where the bed's files lie")
    enter.add_argument("--all", action="store_true", help="in all of the node's namespaces")
    enter.add_argument("command", nargs=argparse.REMAINDER)
    programs = _add(commands, "programs", _programs, "find or fetch programs; print their paths")
    programs.add_argument("names", nargs="+", metavar="PROGRAM")
    return parser


def _add_bed(commands: Commands, kind: str, what: str) -> None:
    """Add what starts and ends a bed; `keep` is what `up` starts, and nobody types it."""
    for name, run, meaning in (
        ("up", _up, f"start {what}"),
        ("down", _down, "end it, and remove all it left"),
        ("keep", _keep, "what `up` starts: hold it until SIGTERM"),
    ):
        parser = _add(commands, name, run, meaning)
        parser.add_argument("--dir", type=Path, default=BUILD / kind, help="where its files lie")
        parser.set_defaults(kind=kind)


def _add(commands: Commands, name: str, run: Run, meaning: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=meaning, description=meaning)
    parser.set_defaults(run=run)
    return parser


def _up(options: argparse.Namespace) -> int:
    kubeconfig = keeper.start(options.kind, options.dir)
    kubectl = binaries.find("kubectl")["kubectl"]
    print(f"export KUBECONFIG={shlex.quote(str(kubeconfig))} PATH={kubectl.parent}:$PATH")
    return 0


def _keep(options: argparse.Namespace) -> int:
    return keeper.keep(options.kind, options.dir)


def _down(options: argparse.Namespace) -> int:
    keeper.stop(options.dir)
    return 0


def _enter(options: argparse.Namespace) -> int:
    everything = ["--all"] if options.all else []
    command = options.command or [os.environ.get("SHELL", "/bin/sh")]
    process_id, kubeconfig = keeper.node_in(options.dir)
    program = python_module("kube.enter", *everything, str(process_id), *command)
    own = {"PYTHONPATH": str(binaries.ROOT / "hack"), "KUBECONFIG": str(kubeconfig)}
    folders = {str(path.parent) for path in binaries.find(*node_programs.PROGRAMS).values()}
    path = ":".join([*sorted(folders), os.environ.get("PATH", "")])
    environment = {**os.environ, **own, "PATH": path}
    return subprocess.run(program, env=environment, check=False).returncode


def _programs(options: argparse.Namespace) -> int:
    for path in binaries.find(*options.names).values():
        print(path)
    return 0
