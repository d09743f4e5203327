"""What the operator counts of itself, as `epd.telemetry` names it."""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from epd import telemetry
from epd.telemetry import Metric
from epd_operator.objects import Key
from epd_operator.progress import Progress
from epd_operator.wakeups import WakeUps


class OperatorMetrics(Collector):
    """Reads the numbers of the passes when Prometheus asks."""

    def __init__(
        self,
        registry: CollectorRegistry,
        progress: Progress,
        api_calls: Mapping[tuple[str, str], int],
    ) -> None:
        """Register in `registry`.

        Args:
            registry: Where its metrics go.
            progress: That of all its work.
            api_calls: Calls so far by verb and result, read anew each time.
        """
        self._api_calls = api_calls
        self._progress = progress
        self._expiries: dict[tuple[str, str, str], float] = {}
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

    def note_expiries(self, key: Key, expiries: Mapping[str, datetime]) -> None:
        """Take note of when a cluster's certificates end; none: it is gone."""
        for name in telemetry.LABEL_VALUES["certificate"]:
            moment = expiries.get(name)
            if moment is None:
                self._expiries.pop((key.namespace, key.name, name), None)
            else:
                self._expiries[key.namespace, key.name, name] = moment.timestamp()

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
        turned = GaugeMetricFamily(telemetry.LAST_TURN.name, telemetry.LAST_TURN.help)
        turned.add_metric([], time.time() - self._progress.latest[1])
        info = _gauge(telemetry.OPERATOR_INFO)
        info.add_metric([version("epd-operator")], 1)
        ends = _gauge(telemetry.CERTIFICATE_EXPIRY)
        for labels, end_s in list(self._expiries.items()):
            ends.add_metric(labels, end_s)
        calls = CounterMetricFamily(
            telemetry.API_CALLS.name, telemetry.API_CALLS.help, labels=telemetry.API_CALLS.labels
        )
        for verb_and_result, count in list(self._api_calls.items()):
            calls.add_metric(verb_and_result, count)
        yield from (turned, info, ends, calls)


def _gauge(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
