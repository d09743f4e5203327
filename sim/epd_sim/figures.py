"""Draws what studies found. matplotlib is imported here alone, and only when something is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epd_sim.calibration import Comparison
from epd_sim.policies import Outcome
from epd_sim.results import Slo, Tpot
from epd_sim.study import split_over_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class NoMatplotlibError(Exception):
    """Plots were asked for, and matplotlib is not installed."""


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise NoMatplotlibError(
            "plots need matplotlib: install epd-operator[sim], or leave --plots out"
        ) from None
    return pyplot


def draw_outcome(outcome: Outcome, slo: Slo, path: Path) -> None:
    """Draw one run over time: the split, TTFT and TPOT against the SLO."""
    pyplot = _pyplot()
    figure, (above, middle, below) = pyplot.subplots(3, 1, sharex=True, figsize=(9, 8))
    _draw_split(above, outcome)
    results = outcome.results
    _draw_points(middle, results.arrival_s, results.ttft_ms, slo.ttft_ms, "TTFT ms")
    mean = slo.tpot is Tpot.MEAN
    tpot_ms = results.tpot_mean_ms if mean else results.tpot_p90_ms
    name = "TPOT ms (mean gap)" if mean else "TPOT ms (p90 of gaps)"
    _draw_points(below, results.arrival_s, tpot_ms, slo.tpot_ms, name)
    below.set_xlabel("seconds")
    share = results.attainment(slo)
    figure.suptitle(f"{outcome.policy}: {share:.1%} of {len(results)} requests met the SLO")
    _save(figure, path)


def draw_goodput(curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Draw attainment over the rate, a line for each policy: pairs (requests a second, share)."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 5))
    for name, points in curves.items():
        rates, shares = zip(*sorted(points), strict=True)
        axes.plot(rates, shares, marker="o", label=name)
    axes.set_xlabel("requests a second")
    axes.set_ylabel("share that met the SLO")
    axes.set_ylim(0, 1.02)
    axes.legend()
    _save(figure, path)


def draw_calibration(found: Sequence[Comparison], path: Path) -> None:
    """Draw the ratio study: published and simulated mean TTFT of every split."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 5))
    names = [f"{c.ratio.method}\n{c.ratio.count}:{8 - c.ratio.count}" for c in found]
    places = np.arange(len(found))
    axes.bar(places - 0.2, [c.ratio.ttft_s for c in found], 0.4, label="published")
    axes.bar(
        places + 0.2,
        [c.ttft_s for c in found],
        0.4,
        yerr=[c.ttft_spread_s for c in found],
        label="simulated (spread of single runs)",
    )
    axes.set_xticks(places, names)
    axes.set_yscale("log")
    axes.set_ylabel("mean TTFT, seconds")
    axes.legend()
    _save(figure, path)


def _draw_split(axes: "Axes", outcome: Outcome) -> None:
    timeline = split_over_time(outcome)
    end_s = float(outcome.results.arrival_s[-1]) if len(outcome.results) else 1.0
    times = [*(at_s for at_s, _ in timeline), end_s]
    roles = sorted({role for _, counts in timeline for role in counts})
    for role in roles:
        counts = [counts.get(role, 0) for _, counts in timeline]
        axes.step(times, [*counts, counts[-1]], where="post", label=str(role))
    axes.set_ylabel("pods")
    axes.legend(loc="upper right")


def _draw_points(axes: "Axes", x: "Any", y: "Any", limit: float, name: str) -> None:
    axes.plot(x, y, ".", markersize=2)
    axes.axhline(limit, color="black", linewidth=1)
    axes.set_yscale("symlog", linthresh=limit)
    axes.set_ylabel(name)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    _pyplot().close(figure)
