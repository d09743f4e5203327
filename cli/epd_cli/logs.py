"""`epd logs`: the last lines that the programs of a running cluster wrote."""

import argparse
from collections import deque

from epd_cli.connect import chosen_cluster
from epd_cli.failures import UsageError


def run(options: argparse.Namespace) -> int:
    """Print the last lines of each log, its program's name before each."""
    folder = chosen_cluster(options).logs
    found = {file.stem: file for file in sorted(folder.glob("*.log"))}
    for name in options.names:
        if name not in found:
            raise UsageError(f"no log of {name!r}; there are: {', '.join(found) or 'none yet'}")
    for name in options.names or found:
        with found[name].open(encoding="utf-8", errors="replace") as log:
            for line in deque(log, options.tail):
                print(f"[{name}] {line.rstrip()}")
    return 0
