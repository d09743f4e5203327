"""What a dashboard shows, as data: `grafana.py` makes JSON of it, `pictures.py` draws it.

Queries hold Grafana's variables: `$namespace`, `$cluster`, `$role` and `$__rate_interval`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from epd.telemetry import Metric
from monitoring import promql

OF_CLUSTER: Final = 'namespace=~"$namespace", epd_dev_cluster=~"$cluster"'
OF_ROLE: Final = f'{OF_CLUSTER}, role=~"$role"'
WINDOW: Final = "$__rate_interval"


@unique
class Kind(StrEnum):
    """How a panel shows its series."""

    LINES = "timeseries"
    STACK = "stack"
    NUMBER = "stat"
    HEATMAP = "heatmap"


@unique
class Unit(StrEnum):
    """What a panel's numbers are, by Grafana's names."""

    SECONDS = "s"
    RATIO = "percentunit"
    PER_SECOND = "cps"
    REQUESTS = "reqps"
    BYTES = "binBps"
    COUNT = "short"


@dataclass(frozen=True, slots=True)
class Query:
    """One query; `legend` names its series, with labels as `{{label}}`.

    `is_limit`: it is what the others should stay below, and drawn so.
    """

    expr: str
    legend: str
    is_limit: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: In a few words.
        description: What it shows, and what to make of it.
        unit: Of its numbers.
        queries: What it asks.
        kind: How it is drawn.
        width: In 24ths of the board.
        bad_from: From here on a number is red; None: no number is.
        bad_below: Below this a number is red.
        runbooks: Alerts that it explains.
    """

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    width: int = 12
    bad_from: float | None = None
    bad_below: float | None = None
    runbooks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: rows of panels, each with a title.

    Attributes:
        uid: Its address in Grafana, and its file's name.
        title: Its name.
        description: The question it answers.
        rows: Panels by the title of their row, in order.
        flips: Show each flip as an annotation.
    """

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    flips: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels in order."""
        return tuple(panel for _, panels in self.rows for panel in panels)


def total(inner: str, *by: str) -> str:
    """Return the sum of something by labels."""
    return f"sum by ({', '.join(by)}) ({inner})" if by else f"sum({inner})"


def gauge(metric: Metric, *by: str, where: str = "", of: str = OF_CLUSTER) -> str:
    """Return the sum of a gauge by labels."""
    return total(promql.series(metric, _and(of, where)), *by)


def rate(metric: Metric, *by: str, where: str = "", of: str = OF_CLUSTER, suffix: str = "") -> str:
    """Return the sum of a counter's rate by labels."""
    return total(promql.rate(metric, WINDOW, _and(of, where), suffix), *by)


def quantile(share: float, metric: Metric, *by: str, where: str = "", of: str = OF_CLUSTER) -> str:
    """Return a quantile of a histogram by labels."""
    buckets = rate(metric, "le", *by, where=where, of=of, suffix="_bucket")
    return f"histogram_quantile({share}, {buckets})"


def mean(metric: Metric, *by: str, where: str = "", of: str = OF_CLUSTER) -> str:
    """Return the mean of a histogram's observations by labels."""
    parts = (rate(metric, *by, where=where, of=of, suffix=each) for each in ("_sum", "_count"))
    return " / ".join(parts)


def heat(metric: Metric, where: str = "") -> tuple[Query, ...]:
    """Return the query of a heatmap."""
    inner = promql.increase(metric, WINDOW, _and(OF_CLUSTER, where), "_bucket")
    return (Query(total(inner, "le"), "{{le}}"),)


def quantiles(
    metric: Metric, *by: str, where: str = "", shares: tuple[float, ...] = (0.5, 0.9, 0.99)
) -> tuple[Query, ...]:
    """Return queries of several quantiles."""
    labels = "".join(f" {{{{{label}}}}}" for label in by)
    return tuple(
        Query(quantile(share, metric, *by, where=where), f"p{share * 100:g}{labels}")
        for share in shares
    )


def each(template: Callable[..., str], metric: Metric, *by: str, **options: str) -> Query:
    """Return a query by labels whose series are named after them."""
    return Query(template(metric, *by, **options), " ".join(f"{{{{{label}}}}}" for label in by))


def _and(*matchers: str) -> str:
    return ", ".join(filter(None, matchers))
