"""The operator as a service: elected, it watches and reconciles until it is told to stop."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from kubernetes.aio.client import ApiClient
from prometheus_client import CollectorRegistry

from epd.tracing import Tracing, start_tracing
from epd.vocabulary import Component
from epd_operator import cluster as kubernetes
from epd_operator import health
from epd_operator.control.loops import ControlLoops
from epd_operator.control.metrics import ControlMetrics
from epd_operator.handlers import Watch
from epd_operator.lease import Lease
from epd_operator.metrics import OperatorMetrics
from epd_operator.objects import Key, Kind
from epd_operator.ports import Cluster, ClusterCallError, GoneError
from epd_operator.progress import Progress
from epd_operator.reconcile import Reconciler
from epd_operator.settings import OperatorSettings
from epd_operator.wakeups import Outcome, WakeUps
from epd_operator.worker_load import HttpWorkers

log = logging.getLogger(__name__)

SURVEY_S: Final = 60.0
"""How often all clusters are looked at, whatever the watches said or failed to say."""

RETRY_S: Final = 2.0

_SURVEY: Final = "the survey"
_FIRST_CONTACT: Final = "the first contact"


class SystemClock:
    """The machine's time."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a leading operator works with."""

    settings: OperatorSettings
    cluster: Cluster
    api: ApiClient
    session: aiohttp.ClientSession
    progress: Progress
    metrics: OperatorMetrics
    control: ControlMetrics
    tracing: Tracing | None


async def run(settings: OperatorSettings, stop: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set, or a signal says so.

    Raises:
        ServerNotFoundError: There is no API server to work with.
    """
    stop = stop or _stopped_by_signals()
    api = await kubernetes.connect(settings.kubeconfig)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(kubernetes.KubernetesCluster(api))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        registry = CollectorRegistry()
        progress = Progress()
        metrics = OperatorMetrics(registry, progress, server.calls)
        control = ControlMetrics(registry)
        tracing = start_tracing(Component.OPERATOR, settings.identity)
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        parts = Parts(settings, server, api, session, progress, metrics, control, tracing)
        await stack.enter_async_context(_serving(settings, parts.progress, registry))
        await _either(_work(parts), _set(stop))


async def _work(parts: Parts) -> None:
    """Lead whenever we may, until cancelled."""
    settings = parts.settings
    await _first_contact(parts)
    if not settings.lease_namespace:
        await _lead(parts, lambda: True)
        return

    def tell() -> None:
        parts.progress.expect("the lease", SURVEY_S)

    lease = Lease(parts.cluster, settings.lease_namespace, settings.identity, tell=tell)
    try:
        while True:
            await lease.campaign()
            await _either(_lead(parts, lambda: lease.is_leading), lease.keep())
    finally:
        await lease.release()


async def _lead(parts: Parts, may_write: Callable[[], bool]) -> None:
    """Reconcile all clusters until cancelled."""
    reconciler = Reconciler(
        cluster=parts.cluster,
        workers=HttpWorkers(parts.session),
        clock=SystemClock(),
        images=parts.settings.images,
        may_write=may_write,
        tell_expiries=parts.metrics.note_expiries,
    )
    loops = ControlLoops(
        parts.cluster,
        reconciler.clock,
        parts.session,
        parts.settings.prometheus_url,
        reconciler.may_write,
        parts.control,
        parts.tracing,
        parts.progress,
    )
    reconciler.tell_pods = loops.see

    async def run_pass(key: Key) -> Outcome:
        loops.hear_of(key)
        return await reconciler.run(key)

    wakeups = WakeUps(run_pass, parts.progress)
    parts.metrics.follow(wakeups)
    watch = Watch(
        wakeups.wake,
        lambda: kubernetes.credentials_of(parts.api),
        parts.settings.namespaces,
    )
    surveying = asyncio.create_task(_survey(parts, wakeups))
    try:
        await watch.run()
    finally:
        surveying.cancel()
        parts.progress.forget(_SURVEY)
        await loops.close()
        await wakeups.close()
        parts.metrics.follow(None)


async def _survey(parts: Parts, wakeups: WakeUps) -> None:
    """Wake every cluster now and then: no event is so important that it could not be missed."""
    while True:
        parts.progress.expect(_SURVEY, SURVEY_S)
        try:
            for key in await _clusters(parts.cluster, parts.settings.namespaces):
                wakeups.wake(key)
        except ClusterCallError as error:
            log.warning("the survey failed: %s", error)
        parts.progress.expect(_SURVEY, SURVEY_S)
        await asyncio.sleep(SURVEY_S)


async def _clusters(cluster: Cluster, namespaces: Sequence[str]) -> list[Key]:
    found = [await cluster.list(Kind.EPD_CLUSTER, each, {}) for each in namespaces or ("",)]
    return [
        Key(one["metadata"]["namespace"], one["metadata"]["name"]) for page in found for one in page
    ]


async def _first_contact(parts: Parts) -> None:
    """Wait until the API server answers and knows our kind of object."""
    told = ""
    while True:
        parts.progress.expect(_FIRST_CONTACT, SURVEY_S)
        try:
            await _clusters(parts.cluster, parts.settings.namespaces)
        except GoneError:
            trouble = "there is no EPDCluster kind; install the chart epd-crds"
        except ClusterCallError as error:
            trouble = str(error)
        else:
            parts.progress.forget(_FIRST_CONTACT)
            parts.progress.has_reached_server = True
            return
        if trouble != told:
            log.warning("waiting for the API server: %s", trouble)
            told = trouble
        await asyncio.sleep(RETRY_S)


@asynccontextmanager
async def _serving(
    settings: OperatorSettings, progress: Progress, registry: CollectorRegistry
) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if settings.liveness_port:
            routes = health.probe_routes(progress)
            runner = await health.serve(routes, settings.liveness_port)
            stack.push_async_callback(runner.cleanup)
        if settings.metrics_port:
            stack.enter_context(health.serving_metrics(registry, settings.metrics_port))
        yield


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _either(*works: Coroutine[Any, Any, None]) -> None:
    """Do all until one ends, and end the others in good order; what it failed of is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


def _stopped_by_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
