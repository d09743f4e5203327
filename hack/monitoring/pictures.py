"""Draws a board as Grafana would lay it out, from what Prometheus answers: for a person to judge.

No Grafana is needed, and none is imitated: titles, layout, series, thresholds and units are the
board's, the rest is matplotlib's.
"""

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from PIL import Image

from monitoring.board import Board, Kind, Panel, Query, Unit
from monitoring.grafana import FLIP_TITLE, flips_expr
from monitoring.live.answers import Line, lines
from monitoring.live.prometheus import Prometheus

_COLUMNS: Final = 24
_TALL: Final = {Kind.NUMBER: 1.4}
_ROW_IN: Final = 2.6
_HEAD_IN: Final = 0.4
_WIDTH_IN: Final = 13
_LEFT: Final = 0.045
_LEGEND_MOST: Final = 8
_COLOURS: Final = 96
_GOOD, _BAD, _LIMIT = "#3f8f4f", "#c4162a", "#c4162a"


def draw(board: Board, server: Prometheus, since_s: float, file: Path) -> None:
    """Write a PNG of a board, with what happened from `since_s` (Unix time) to now."""
    matplotlib.use("Agg")
    bands = [band for _, panels in board.rows for band in _bands(panels)]
    tall_in = [_TALL.get(band[0].kind, _ROW_IN) for band in bands]
    height_in = sum(tall_in) + _HEAD_IN
    figure = plt.figure(figsize=(_WIDTH_IN, height_in))
    title = f"{board.title}: {board.description}"
    figure.text(0.01, 1 - _HEAD_IN / 2 / height_in, title, va="center", weight="bold")
    flips = flips_of(server, since_s) if board.flips else []
    first = bands[0][0]
    top_in = height_in - _HEAD_IN
    for band, band_in in zip(bands, tall_in, strict=True):
        top_in -= band_in
        column = 0
        for panel in band:
            axes = figure.add_axes(_place(column, panel.width, top_in, band_in, height_in))
            column += panel.width
            _draw_panel(axes, panel, server, since_s)
            for at_s, _ in flips if panel.kind in (Kind.LINES, Kind.STACK) else ():
                axes.axvline(at_s - since_s, color="purple", linewidth=0.8, alpha=0.6)
            if panel is first:
                _name_flips(axes, flips, since_s)
    _save(figure, file)
    plt.close(figure)


def _place(
    column: int, width: int, bottom_in: float, band_in: float, height_in: float
) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height of a panel's axes, as shares of the figure."""
    unit = 1 / _COLUMNS
    return (
        column * unit + _LEFT,
        (bottom_in + 0.3) / height_in,
        width * unit - _LEFT - 0.01,
        (band_in - 0.62) / height_in,
    )


def _bands(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Return panels side by side, as many as fill the board's width."""
    bands: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(each.width for each in bands[-1]) + panel.width > _COLUMNS:
            bands.append([])
        bands[-1].append(panel)
    return bands


def _draw_panel(axes: Axes, panel: Panel, server: Prometheus, since_s: float) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9)
    found = [(query, lines(server, query.expr, since_s)) for query in panel.queries]
    if panel.kind is Kind.NUMBER:
        _number(axes, panel, found[0][1])
        return
    axes.tick_params(labelsize=7)
    axes.set_xlim(0, time.time() - since_s)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel.unit)))
    if panel.kind is Kind.HEATMAP:
        _heatmap(axes, found[0][1], since_s, panel.unit)
        return
    _series(axes, panel, found, since_s)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    limit = panel.bad_from if panel.bad_from is not None else panel.bad_below
    if limit is not None and axes.get_ylim()[1] >= limit / 3:
        axes.axhline(limit, color=_BAD, linestyle=":", linewidth=1)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=6, loc="upper left", ncols=2, framealpha=0.6)


def _series(
    axes: Axes, panel: Panel, found: list[tuple[Query, list[Line]]], since_s: float
) -> None:
    flat = [
        (query, line)
        for query, answer in found
        for line in answer
        if any(not math.isnan(value) for _, value in line.points)
    ]
    if panel.kind is Kind.STACK and flat:
        times = sorted({at for _, line in flat for at, _ in line.points})
        rows = [[dict(line.points).get(at, 0.0) for at in times] for _, line in flat]
        names = [_name(query, line) for query, line in flat][:_LEGEND_MOST]
        shifted = [at - since_s for at in times]
        axes.stackplot(shifted, np.nan_to_num(rows), labels=names, alpha=0.7)
        return
    for number, (query, line) in enumerate(flat):
        xs = [at - since_s for at, _ in line.points]
        ys = [value for _, value in line.points]
        style: dict[str, Any] = {"linewidth": 1.2}
        if query.is_limit:
            style = {"linewidth": 1.2, "linestyle": "--", "color": _LIMIT}
        label = _name(query, line) if number < _LEGEND_MOST or query.is_limit else None
        axes.plot(xs, ys, label=label, **style)


def _number(axes: Axes, panel: Panel, answer: list[Line]) -> None:
    values = [value for line in answer for _, value in line.points if not math.isnan(value)]
    last = values[-1] if values else math.nan
    is_bad = (panel.bad_from is not None and last >= panel.bad_from) or (
        panel.bad_below is not None and last < panel.bad_below
    )
    axes.set_facecolor(_BAD if is_bad else _GOOD)
    axes.set_xticks([])
    axes.set_yticks([])
    text = shown(last, panel.unit)
    axes.text(0.5, 0.45, text, ha="center", va="center", color="white", fontsize=22,
              transform=axes.transAxes)  # fmt: skip


def _heatmap(axes: Axes, answer: list[Line], since_s: float, unit: Unit) -> None:
    buckets = sorted(
        (float(line.labels["le"]), dict(line.points)) for line in answer if "le" in line.labels
    )
    times = sorted({at for _, points in buckets for at in points})
    if not times:
        return
    at_or_below = np.array([[points.get(at, 0.0) for at in times] for _, points in buckets])
    inside = np.clip(np.diff(at_or_below, axis=0, prepend=0.0), 0, None)
    rows = np.flatnonzero(inside.sum(axis=1))
    low, high = (rows[0], rows[-1] + 1) if rows.size else (0, 1)
    span = (times[0] - since_s, times[-1] - since_s, 0, high - low)
    axes.imshow(inside[low:high], aspect="auto", origin="lower", cmap="Oranges", extent=span)
    axes.set_xlim(span[:2])
    names = [shown(limit, unit) for limit, _ in buckets[low:high]]
    axes.set_yticks(range(1, high - low + 1), names)


def shown(value: float, unit: Unit) -> str:
    """Return a number as a person reads it, with its unit."""
    if math.isnan(value):
        return "no data"
    if math.isinf(value):
        return "more"
    if unit is Unit.RATIO:
        return f"{value:.0%}" if value >= 0.01 or not value else f"{value:.2%}"
    if unit is Unit.SECONDS:
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if value >= size * (3 if size == 60 else 1):
                return f"{value / size:.3g} {name}"
        return f"{value * 1e3:.3g} ms"
    if unit is Unit.BYTES:
        power = min(3, int(math.log(max(value, 1), 1024)))
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}/s"
    suffix = "/s" if unit in (Unit.PER_SECOND, Unit.REQUESTS) else ""
    return f"{value:.3g}{suffix}"


def _name(query: Query, line: Line) -> str:
    return _named(query.legend, line)


def _named(text: str, line: Line) -> str:
    for label, value in line.labels.items():
        text = text.replace(f"{{{{{label}}}}}", value)
    return text


def flips_of(server: Prometheus, since_s: float) -> list[tuple[float, str]]:
    """Return when flips were made (Unix time), and what Grafana writes at them."""
    return [
        (line.points[0][0], _named(FLIP_TITLE, line))
        for line in lines(server, flips_expr(), since_s)
        if line.points
    ]


def _name_flips(axes: Axes, flips: Sequence[tuple[float, str]], since_s: float) -> None:
    for at_s, title in flips:
        axes.text(at_s - since_s, 0.03, title, transform=axes.get_xaxis_transform(), fontsize=6,
                  rotation=90, va="bottom", ha="right", color="purple")  # fmt: skip


def _save(figure: Any, file: Path) -> None:
    """Write a small PNG: few colours are enough for lines and letters."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=72)
    data.seek(0)
    picture = Image.open(data).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, "PNG", optimize=True)
