"""Tables on a terminal or in a log: plain columns, never cut off."""

import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

WIDTH: Final = 200
"""More than any table of ours: a narrow terminal folds a line, and nothing is cut off."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 0) -> None:
    """Print rows under their columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(file=sys.stdout, width=WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(" " * indent + line.rstrip())
