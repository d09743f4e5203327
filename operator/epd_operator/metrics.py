"""What the operator counts of itself, as `epd.telemetry` names it."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from epd import telemetry
from epd_operator.wakeups import WakeUps


class OperatorMetrics(Collector):
    """Reads the numbers of the passes when Prometheus asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register in `registry`."""
        self._wakeups: WakeUps | None = None
        self._passes = 0
        self._failures = 0
        registry.register(self)

    def follow(self, wakeups: WakeUps | None) -> None:
        """Read these passes from now on; None: we do not lead."""
        if self._wakeups is not None:
            self._passes += self._wakeups.passes
            self._failures += self._wakeups.failures
        self._wakeups = wakeups

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the present numbers."""
        now = self._wakeups
        leading = GaugeMetricFamily(telemetry.LEADING.name, telemetry.LEADING.help)
        leading.add_metric([], int(now is not None))
        clusters = GaugeMetricFamily(telemetry.CLUSTERS.name, telemetry.CLUSTERS.help)
        clusters.add_metric([], now.clusters if now else 0)
        passes = CounterMetricFamily(telemetry.PASSES.name, telemetry.PASSES.help)
        passes.add_metric([], self._passes + (now.passes if now else 0))
        failures = CounterMetricFamily(telemetry.PASS_FAILURES.name, telemetry.PASS_FAILURES.help)
        failures.add_metric([], self._failures + (now.failures if now else 0))
        yield from (leading, clusters, passes, failures)
