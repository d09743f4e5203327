"""Small pieces of PromQL over the registry: names come from `epd.telemetry`, never a string."""

from typing import Final

from epd.telemetry import CLUSTER_LABELS, Metric

CLUSTER: Final = ", ".join(CLUSTER_LABELS)


def series(metric: Metric, matchers: str = "", suffix: str = "") -> str:
    """Return a selector of a metric's series; `suffix` is `_bucket`, `_sum` or `_count`."""
    return f"{metric.name}{suffix}{{{matchers}}}" if matchers else metric.name + suffix


def summed(inner: str, *by: str) -> str:
    """Return the sum of something by cluster and more labels."""
    return f"sum by ({', '.join((*CLUSTER_LABELS, *by))}) ({inner})"


def rate(metric: Metric, window: str, matchers: str = "", suffix: str = "") -> str:
    """Return the rate of a counter over a window."""
    return f"rate({series(metric, matchers, suffix)}[{window}])"


def increase(metric: Metric, window: str, matchers: str = "", suffix: str = "") -> str:
    """Return by how much a counter grew in a window."""
    return f"increase({series(metric, matchers, suffix)}[{window}])"


def quantile(share: float, metric: Metric, window: str, matchers: str = "", *by: str) -> str:
    """Return a quantile of a histogram's observations by cluster and more labels."""
    buckets = summed(rate(metric, window, matchers, "_bucket"), "le", *by)
    return f"histogram_quantile({share}, {buckets})"
