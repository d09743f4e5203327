"""What Prometheus says to the queries of boards, Grafana's variables filled in."""

import time
from dataclasses import dataclass
from math import isfinite
from typing import Final

from monitoring.board import Panel, Query, Unit
from monitoring.live.prometheus import RATE_INTERVAL, Prometheus

_RATE_INTERVAL: Final = "$__rate_interval"
_VARIABLES: Final = {"$namespace": ".*", "$cluster": ".*", "$role": ".*"}
_MOST: Final = {Unit.RATIO: 100.0, Unit.SECONDS: 3600.0 * 24 * 4000}


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a panel: its labels, and values over seconds since the epoch."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


def filled(expr: str, rate_interval: str = RATE_INTERVAL) -> str:
    """Return a query with Grafana's variables filled in."""
    for name, value in {**_VARIABLES, _RATE_INTERVAL: rate_interval}.items():
        expr = expr.replace(name, value)
    return expr


def lines(server: Prometheus, expr: str, since_s: float, points: int = 240) -> list[Line]:
    """Return what a query gives from `since_s` (Unix time) to now."""
    now_s = time.time()
    step_s = max(0.5, (now_s - since_s) / points)
    query = filled(expr, server.rate_interval)
    step = f"{step_s:.3f}"
    data = server.ask("query_range", query=query, start=since_s, end=now_s, step=step)
    return [
        Line(found["metric"], tuple((float(at), float(value)) for at, value in found["values"]))
        for found in data["result"]
    ]


def complaint(server: Prometheus, panel: Panel, query: Query, since_s: float) -> str:
    """Return what is wrong with the answer to a query of a panel; empty: nothing."""
    found = lines(server, query.expr, since_s)
    # Without traffic a share is 0/0; where work waits and none ends, it waits for ever.
    values = [value for line in found for _, value in line.points if isfinite(value)]
    where = f"{panel.title} / {query.legend}"
    if not values:
        return f"{where}: nothing"
    if min(values) < 0 or max(values) > _MOST.get(panel.unit, float("inf")):
        return f"{where}: {min(values)} to {max(values)} {panel.unit}"
    return ""
