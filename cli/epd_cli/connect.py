"""Finds the cluster that a command is about."""

import argparse
import os
from pathlib import Path

from epd_cli.failures import UsageError
from epd_operator import local_state
from epd_operator.local_state import StateDirectory


def chosen_cluster(options: argparse.Namespace) -> StateDirectory:
    """Return the state directory of the running cluster that `--cluster` or `--state-dir` means.

    Raises:
        UsageError: None runs, or several do and none was chosen.
    """
    if options.state_dir:
        return StateDirectory(Path(options.state_dir).expanduser())
    base = local_state.base_directory(os.environ)
    running = {directory.path.name: directory for directory in local_state.find_running(base)}
    if options.cluster:
        if options.cluster not in running:
            raise UsageError(f"no cluster {options.cluster!r} runs here; {_those(running)}")
        return running[options.cluster]
    if len(running) != 1:
        raise UsageError(
            f"which cluster? choose with --cluster NAME; {_those(running)}"
            if running
            else f"no cluster runs here (looked in {base}); start one: epd up -f CLUSTER.yaml"
        )
    return next(iter(running.values()))


def _those(running: dict[str, StateDirectory]) -> str:
    return f"running: {', '.join(running) or 'none'}"
