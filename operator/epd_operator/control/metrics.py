"""What the control loops did, for Prometheus: demand, pods by role, flips, holds, and when."""

import time
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from epd import telemetry
from epd.policy.control_view import Reason, ReasonCode
from epd.telemetry import Metric, MetricType
from epd_operator.control.ports import Pass, Reporter

ClusterName = tuple[str, str]
"""Namespace and name."""

_Series = dict[tuple[str, ...], float]

_WHY: Final = (
    ReasonCode.TTFT_BREACH_PREDICTED,
    ReasonCode.TPOT_BREACH_SUSTAINED,
    ReasonCode.METHOD_CHANGED,
    ReasonCode.BELOW_MINIMUM,
)
_EXPORTED: Final = (
    telemetry.CONTROL_DEMAND,
    telemetry.CONTROL_DESIRED,
    telemetry.CONTROL_PODS,
    telemetry.CONTROL_FLIPS,
    telemetry.CONTROL_HOLDS,
    telemetry.CONTROL_HOLDING,
    telemetry.CONTROL_PASSES,
    telemetry.CONTROL_DECIDED,
)


class ControlMetrics(Collector):
    """The last pass of each cluster and the totals of all, until it is forgotten."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register in `registry`."""
        self._series: dict[ClusterName, dict[Metric, _Series]] = {}
        registry.register(self)

    def reporter(self, cluster: ClusterName, then: Reporter) -> Reporter:
        """Return a reporter that notes each pass of a cluster and hands it on."""
        return _Noting(self, cluster, then)

    def note(self, cluster: ClusterName, done: Pass) -> None:
        """Take note of a pass."""
        decision = done.decision
        series = self._series.setdefault(cluster, {metric: {} for metric in _EXPORTED})
        demand = {
            reason.subject: reason.numbers
            for reason in decision.reasons
            if reason.code is ReasonCode.DEMAND
        }
        if demand:
            series[telemetry.CONTROL_DEMAND] = _by_role(demand, "demand_pods")
            series[telemetry.CONTROL_PODS] = _by_role(demand, "pods")
            series[telemetry.CONTROL_DECIDED] = {(): time.time()}
        series[telemetry.CONTROL_DESIRED] = {
            (role.value,): float(pods) for role, pods in decision.desired.items()
        }
        _count(series[telemetry.CONTROL_PASSES], ())
        hold = decision.hold.code.value if decision.hold else ""
        holds = telemetry.LABEL_VALUES["hold"]
        series[telemetry.CONTROL_HOLDING] = {(code,): float(code == hold) for code in holds}
        for code in holds:
            _count(series[telemetry.CONTROL_HOLDS], (code,), code == hold)
        for flip in done.enacted:
            roles = (flip.from_role.value, flip.to_role.value)
            _count(series[telemetry.CONTROL_FLIPS], (*roles, why_of(decision.reasons)))

    def forget(self, cluster: ClusterName) -> None:
        """Drop a cluster that is gone."""
        self._series.pop(cluster, None)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the present numbers."""
        for metric in _EXPORTED:
            kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for cluster, series in list(self._series.items()):
                for labels, value in series[metric].items():
                    family.add_metric([*cluster, *labels], value)
            yield family


class _Noting:
    """Notes passes before another reporter is told of them. See `Reporter`."""

    def __init__(self, metrics: ControlMetrics, cluster: ClusterName, then: Reporter) -> None:
        self._metrics = metrics
        self._cluster = cluster
        self._then = then

    async def report(self, done: Pass) -> None:
        """Take note of a pass."""
        self._metrics.note(self._cluster, done)
        await self._then.report(done)


def why_of(reasons: tuple[Reason, ...]) -> str:
    """Return what a flip was for, in one word: a breach, else what the aim rests on."""
    codes = {reason.code for reason in reasons}
    return next((code for code in _WHY if code in codes), ReasonCode.BEST_SPLIT).value


def _by_role(demand: Mapping[str, Mapping[str, float]], name: str) -> _Series:
    return {(role,): float(numbers.get(name, 0.0)) for role, numbers in demand.items()}


def _count(series: _Series, labels: tuple[str, ...], by: float = 1.0) -> None:
    series[labels] = series.get(labels, 0.0) + by
