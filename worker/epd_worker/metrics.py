"""The worker's metrics, over HTTP: what `WatchLoad` says, read at each scrape."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import TimeoutError as TooLate
from importlib.metadata import version
from threading import Thread
from typing import Final, cast
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as MetricFamily
from prometheus_client.registry import Collector

from epd import telemetry
from epd.telemetry import Metric, MetricType
from epd.vocabulary import Stage
from epd.wire.messages import Load, StageLoad
from epd_worker.engine.settings import SettingsError
from epd_worker.load import LoadBoard
from epd_worker.service import WorkerService

log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0

_OF_STAGE: Final[Mapping[Metric, Callable[[StageLoad], float]]] = {
    telemetry.WORKER_WAITING: lambda stage: stage.waiting,
    telemetry.WORKER_RUNNING: lambda stage: stage.running,
    telemetry.WORKER_STARTED: lambda stage: stage.started_total,
    telemetry.WORKER_FINISHED: lambda stage: stage.finished_total,
    telemetry.WORKER_FAILED: lambda stage: stage.failed_total,
    telemetry.WORKER_CANCELLED: lambda stage: stage.cancelled_total,
    telemetry.WORKER_SERVICE: lambda stage: stage.service_us_total / 1e6,
    telemetry.WORKER_FINISHED_TOKENS: lambda stage: stage.tokens_total,
}
_OF_KIND: Final[Mapping[Metric, Callable[[Load], tuple[float, float]]]] = {
    telemetry.WORKER_CACHE_USED: lambda load: (
        load.ec_used_permille / 1e3,
        load.kv_used_permille / 1e3,
    ),
    telemetry.WORKER_LEASES: lambda load: (load.ec_leases, load.kv_leases),
    telemetry.WORKER_RECEIVED: lambda load: (
        load.ec_received_bytes_total,
        load.kv_received_bytes_total,
    ),
}
_KINDS: Final = ("ec", "kv")
_VLLM_PREFIX: Final = "vllm:"


class WorkHistograms:
    """What is observed when it happens: handoffs as stages end, steps as frames leave."""

    def __init__(self, worker: str, board: LoadBoard, registry: CollectorRegistry) -> None:
        """Speak of `worker`, and listen to its `board`."""
        handoff = cast(Histogram, telemetry.instrument(telemetry.WORKER_HANDOFF, registry))
        step = cast(Histogram, telemetry.instrument(telemetry.WORKER_STEP, registry))
        children = {kind: handoff.labels(worker=worker, kind=kind) for kind in _KINDS}
        board.on_handoff = lambda kind, seconds: children[kind].observe(seconds)
        board.on_step = step.labels(worker=worker).observe


class EngineSeries(Collector):
    """Passes on the series that vLLM registers by itself, under their own names."""

    def describe(self) -> Iterable[MetricFamily]:
        """Return nothing: they come once the engine is loaded."""
        return ()

    def collect(self) -> Iterable[MetricFamily]:
        """Return them as they are."""
        return (each for each in REGISTRY.collect() if each.name.startswith(_VLLM_PREFIX))


class LoadCollector(Collector):
    """Turns a load into series: it is asked in the event loop, the scrape runs in a thread."""

    def __init__(self, worker: str, service: WorkerService) -> None:
        """Speak of `worker`."""
        self._worker = worker
        self._service = service
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return nothing: registering must not collect."""
        return ()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the present load; nothing if the event loop is stuck or gone."""
        try:
            load = asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(_ANSWER_S)
        except (TooLate, RuntimeError):
            log.warning("metrics: the worker does not come to answer")
            return
        stages = {Stage.ENCODE: load.encode, Stage.PREFILL: load.prefill, Stage.DECODE: load.decode}
        for metric, of_stage in _OF_STAGE.items():
            family = _family(metric)
            for stage, stage_load in stages.items():
                family.add_metric([self._worker, stage], of_stage(stage_load))
            yield family
        for metric, of_kind in _OF_KIND.items():
            family = _family(metric)
            for kind, value in zip(_KINDS, of_kind(load), strict=True):
                family.add_metric([self._worker, kind], value)
            yield family
        engine = self._service.engine_description
        info = _family(telemetry.WORKER_INFO)
        info.add_metric([self._worker, version("epd-operator"), engine.model, engine.engine], 1)
        yield info
        tokens = _family(telemetry.WORKER_TOKENS)
        tokens.add_metric([self._worker], load.running_tokens)
        yield tokens

    async def _read(self) -> Load:
        return self._service.load()


class MetricsServer:
    """An HTTP server in a thread of its own; None: no server."""

    def __init__(self, running: tuple[WSGIServer, Thread] | None) -> None:
        """Own a server that runs."""
        self._running = running

    def close(self) -> None:
        """End it."""
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join()


def serve_metrics(listen: str, worker: str, service: WorkerService) -> MetricsServer:
    """Serve `/metrics` at HOST:PORT; nowhere if that is empty.

    Raises:
        SettingsError: Nobody can listen there.
    """
    if not listen:
        return MetricsServer(None)
    # When a series began is one more series for each, and Prometheus knows it anyway.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    WorkHistograms(worker, service.board, registry)
    registry.register(LoadCollector(worker, service))
    registry.register(EngineSeries())
    host, _, port = listen.rpartition(":")
    try:
        return MetricsServer(start_http_server(int(port), host.strip("[]"), registry))
    except OSError as error:
        raise SettingsError(f"--metrics-listen {listen}: {error.strerror}") from None


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)
