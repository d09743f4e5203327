"""What `epd simulate` and `epd plan` are asked to serve: scenario or trace, model, objective."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from epd.api.curves import CurvesError, CurvesFile
from epd.vocabulary import Method
from epd_cli.failures import CommandError, UsageError
from epd_sim.costs import H200_QWEN3_VL_8B, StageCosts
from epd_sim.hydrainfer import H800_VICUNA_7B
from epd_sim.policies import Setup
from epd_sim.results import Slo, Tpot
from epd_sim.scenarios import SCENARIOS, at_rate
from epd_sim.traces import TraceError, azure, mooncake, servegen
from epd_sim.workload import Request, Workload

MODELS: Final[dict[str, StageCosts]] = {
    "qwen3-vl-8b-h200": H200_QWEN3_VL_8B,
    "llava-next-7b-h800": H800_VICUNA_7B,
}
Entry = TypeVar("Entry")
_TRACES: Final = ("azure", "mooncake", "servegen")


class Traffic:
    """Draws the workload that the options describe, at any rate.

    Attributes:
        name: For titles.
        slo: The objective that belongs to it.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        """Find scenario or trace.

        Raises:
            UsageError: There is none of that name.
            CommandError: The trace cannot be read.
        """
        self._seconds = options.seconds
        self._seed = options.seed
        self._trace: Workload | None = None
        if options.trace:
            self.name = options.trace
            self._trace = _trace(options.trace, options.seed, options.seconds)
            slo = SCENARIOS["smooth"].slo
        else:
            self.name = options.scenario
            self._scenario = chosen(SCENARIOS, options.scenario, "scenario")
            slo = self._scenario.slo
        self.slo = _objective(slo, options)

    def at(self, rate: float) -> list[Request]:
        """Return the requests at a mean rate.

        Raises:
            UsageError: There is none.
        """
        if self._trace is None:
            workload = self._scenario.make(rate, self._seconds, self._seed)
        else:
            workload = at_rate(self._trace, rate, self._seconds)
        if not workload:
            raise UsageError("no request comes in this time: give more --seconds or more --rate")
        return workload


def setup_of(options: argparse.Namespace, slo: Slo) -> Setup:
    """Return the cluster that the options describe.

    Raises:
        UsageError: Something is not known, or does not fit.
    """
    costs = _costs(options.model)
    method = getattr(options, "method", Method.E_P_D)
    try:
        known = Method(method)
    except ValueError:
        raise UsageError(f"--method {method}: none of {', '.join(Method)}") from None
    least = max(2, len(known.roles))
    if options.pods < least:
        raise UsageError(f"--pods {options.pods}: {known} and its rivals need at least {least}")
    return Setup(
        costs.slowed(options.slower) if options.slower != 1 else costs,
        slo,
        pods=options.pods,
        method=known,
    )


def _costs(name: str) -> StageCosts:
    """Return the costs of a model by name, or those of a curves file."""
    if name.endswith((".yaml", ".yml")):
        try:
            return StageCosts.of(CurvesFile.read(Path(name)))
        except CurvesError as error:
            raise CommandError(str(error)) from None
    return chosen(MODELS, name, "model")


def chosen(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """Return an entry by name; UsageError names those there are."""
    if name not in table:
        raise UsageError(f"{what} {name!r} is none of {', '.join(table)}")
    return table[name]


@contextmanager
def bar(total: int, *, quiet: bool = False) -> Iterator[Progress]:
    """Show a bar on a terminal's stderr; nothing in a log. Its one task has number 0."""
    shown = sys.stderr.isatty() and not quiet
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        progress.add_task("simulating", total=total)
        yield progress


def _objective(slo: Slo, options: argparse.Namespace) -> Slo:
    return replace(
        slo,
        ttft_ms=options.ttft_ms or slo.ttft_ms,
        tpot_ms=options.tpot_ms or slo.tpot_ms,
        tpot=Tpot(options.tpot) if options.tpot else slo.tpot,
    )


def _trace(text: str, seed: int, seconds: float) -> Workload:
    kind, colon, path = text.partition(":")
    if not colon or kind not in _TRACES:
        raise UsageError(f"--trace {text}: KIND:PATH, and KIND is one of {', '.join(_TRACES)}")
    try:
        if kind == "azure":
            found = azure(Path(path))
        elif kind == "mooncake":
            found = mooncake(Path(path))
        else:
            found = servegen(Path(path), seed, from_s=10 * 3600.0, seconds=max(seconds, 1800.0))
    except TraceError as error:
        raise CommandError(f"--trace: {error}") from None
    if not found:
        raise CommandError(f"--trace {path}: there is no request in it")
    return found
