"""One control loop per `EPDCluster`, for as long as the cluster exists and we lead."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from prometheus_client import CollectorRegistry

from epd.api import EPDCluster
from epd.api.load import validate_cluster
from epd.api.names import ControlMode
from epd.api.problems import ClusterError
from epd.policy.control_view import Slo
from epd.tracing import Tracing
from epd_operator import conditions
from epd_operator.control import report
from epd_operator.control.curves_file import curves_of_engine
from epd_operator.control.kubernetes import PodFleet, PodMetrics
from epd_operator.control.loop import Controller, Memory
from epd_operator.control.metrics import ControlMetrics
from epd_operator.control.ports import Metrics, Pass
from epd_operator.control.prometheus import PrometheusMetrics
from epd_operator.control.seen_pods import SeenPods
from epd_operator.control.translate import Aim, aim_of
from epd_operator.notes import tell
from epd_operator.objects import Key, Kind, Manifest, Ref, moment_of
from epd_operator.ports import Clock, Cluster, ClusterCallError, GoneError
from epd_operator.progress import Progress

log = logging.getLogger(__name__)

IDLE_S: Final = 10.0
"""How often a loop that is off, or has nothing valid to go by, looks again."""

PASS_LIMIT_S: Final = 60.0
"""A pass takes seconds; one that takes longer hangs."""

TELL_S: Final = 30.0
"""How often new numbers of a decision are written down though it decides the same."""

LEAST_WINDOW_S: Final = 20.0
WINDOW_INTERVALS: Final = 4


class StatusReporter:
    """Writes passes into the status of an `EPDCluster`, where they say something new."""

    def __init__(
        self, cluster: Cluster, owner: Manifest, mode: ControlMode, slo: Slo, clock: Clock
    ) -> None:
        """Report on `owner` as it was read for this pass."""
        self._cluster = cluster
        self._owner = owner
        self._mode = mode
        self._slo = slo
        self._clock = clock

    async def report(self, done: Pass) -> None:
        """Take note of a pass."""
        now = self._clock.now()
        before = self._owner.get("status") or {}
        kept = {each["type"]: each for each in before.get("conditions") or ()}
        generation = self._owner["metadata"].get("generation") or 0
        judged = report.verdicts(done, self._slo)
        status: dict[str, Any] = {"conditions": conditions.merged(judged, kept, generation, now)}
        decided = report.last_decision(done, self._mode, now)
        last = before.get("lastDecision") or {}
        numbers_differ = last.get("message") != decided["message"]
        if report.is_news(last, decided) or done.enacted or (numbers_differ and self._is_old(last)):
            status["lastDecision"] = decided
        if conditions.differs(before, status):
            version = self._owner["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "status": status}
            try:
                await self._cluster.patch(Ref.to(self._owner), body, subresource="status")
            except ClusterCallError as error:  # the next pass says it again
                log.debug("a decision is not written down: %s", error)
        for note in report.notes(done):
            await tell(self._cluster, self._owner, note, now, identity=now.isoformat())

    def _is_old(self, last: Mapping[str, Any]) -> bool:
        written = moment_of(last.get("time"))
        return written is None or (self._clock.now() - written).total_seconds() >= TELL_S


@dataclass(slots=True)
class _Course:
    """What a loop keeps between passes: forgotten when the spec changes what it rests on."""

    uid: str
    aim: Aim
    metrics: Metrics
    fleet: PodFleet
    memory: Memory


class ControlLoops:
    """Starts a loop for every cluster that it hears of."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        session: aiohttp.ClientSession,
        prometheus_url: str = "",
        may_write: Callable[[], bool] = lambda: True,
        counted: ControlMetrics | None = None,
        tracing: Tracing | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Plan loops.

        Args:
            cluster: The API server.
            clock: The time.
            session: Asks pods.
            prometheus_url: Where metrics are; empty: pods are asked themselves.
            may_write: False once another operator leads.
            counted: Notes the passes for Prometheus.
            tracing: Makes spans of the passes; None: nobody wants any.
            progress: Hears of each pass.
        """
        self._progress = progress or Progress()
        self._tracing = tracing
        self._counted = counted or ControlMetrics(CollectorRegistry())
        self._cluster = cluster
        self._clock = clock
        self._session = session
        self._seen: dict[Key, SeenPods] = {}
        self._prometheus_url = prometheus_url
        self._may_write = may_write
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def hear_of(self, key: Key) -> None:
        """Start the loop of a cluster, if it has none."""
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.create_task(self._run(key))
            task.add_done_callback(lambda _: self._end(key))

    def see(self, key: Key, uid: str, pods: Sequence[Manifest]) -> None:
        """Take note of the pods that a cluster with this uid has now."""
        self._seen_pods(key, uid).note(pods)

    def _seen_pods(self, key: Key, uid: str) -> SeenPods:
        seen = self._seen.get(key)
        if seen is None or seen.uid != uid:
            seen = self._seen[key] = SeenPods(self._cluster, key, uid)
        return seen

    def _end(self, key: Key) -> None:
        self._tasks.pop(key, None)
        self._seen.pop(key, None)
        self._progress.forget(_work(key))
        self._counted.forget((key.namespace, key.name))

    async def close(self) -> None:
        """End all loops."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key) -> None:
        """Make passes until the cluster is gone; a pass that fails is left to the next."""
        course: _Course | None = None
        while True:
            wait_s = IDLE_S
            self._progress.expect(_work(key), PASS_LIMIT_S)
            try:
                owner = await self._cluster.get(Ref(Kind.EPD_CLUSTER, key.namespace, key.name))
                if owner is None or owner["metadata"].get("deletionTimestamp"):
                    return
                spec = validate_cluster({k: v for k, v in owner.items() if k != "status"})
                if spec.spec.control.mode is not ControlMode.OFF and self._may_write():
                    wait_s = spec.spec.control.interval_seconds
                    course = self._course(course, key, owner, spec)
                    await self._pass(course, owner, spec)
                else:
                    course = None
                    self._counted.forget((key.namespace, key.name))
            except GoneError:
                return
            except (ClusterCallError, ClusterError) as error:
                log.warning("control of %s: %s", key, error)
            except Exception:
                log.exception("control of %s: a pass failed", key)
            self._progress.expect(_work(key), wait_s)
            await asyncio.sleep(wait_s)

    def _course(
        self, course: _Course | None, key: Key, owner: Manifest, spec: EPDCluster
    ) -> _Course:
        uid, aim = owner["metadata"]["uid"], aim_of(spec)
        if course is not None and course.uid == uid and course.aim == aim:
            return course
        window_s = max(LEAST_WINDOW_S, WINDOW_INTERVALS * spec.spec.control.interval_seconds)
        seen = self._seen_pods(key, uid)
        fleet = PodFleet(self._cluster, key, seen, self._clock)
        return _Course(uid, aim, self._metrics(key, window_s, aim, seen), fleet, Memory())

    def _metrics(self, key: Key, window_s: float, aim: Aim, seen: SeenPods) -> Metrics:
        if not self._prometheus_url:
            return PodMetrics(seen, window_s, self._session)
        # As the chart's PodMonitor labels them.
        matchers = {"namespace": key.namespace, "epd_dev_cluster": key.name}
        return PrometheusMetrics(
            self._prometheus_url, matchers, window_s, max_age_s=aim.limits.max_age_s
        )

    async def _pass(self, course: _Course, owner: Manifest, spec: EPDCluster) -> None:
        mode = spec.spec.control.mode
        metadata = owner["metadata"]
        status = StatusReporter(self._cluster, owner, mode, course.aim.slo, self._clock)
        controller = Controller(
            fleet=course.fleet,
            metrics=course.metrics,
            reporter=self._counted.reporter((metadata["namespace"], metadata["name"]), status),
            clock=lambda: self._clock.now().timestamp(),
            aim=course.aim,
            mode=mode,
            curves=curves_of_engine(spec.spec.engine, read_file=False),
            tracing=self._tracing,
            name=f"{metadata['namespace']}/{metadata['name']}",
        )
        course.memory = await controller.run_once(course.memory)


def _work(key: Key) -> str:
    return f"control of {key}"
