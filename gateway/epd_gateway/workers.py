"""One worker: its connection, its health and its load.

    connecting -> loading -> ready <-> silent
         ^___________________________________|      (and on every loss of the connection)

A worker is *ready* while its session is open, it calls itself ready, and it has been heard lately.
A silent one takes nothing new; silent for longer it is lost, and its calls fail, so that their
requests go on elsewhere.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum, unique
from time import monotonic
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from epd.policy.pods import PodView
from epd.vocabulary import Role, Stage
from epd.wire.messages import (
    Description,
    EcHandle,
    Encode,
    Generate,
    KvHandle,
    Load,
    Outcome,
)
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient
from epd_gateway.calls import Call, CallFailed, Reason, Take, drop_event
from epd_gateway.pod_load import LoadBook
from epd_gateway.releases import OwedReleases
from epd_gateway.session import Session, TrafficTotals
from epd_gateway.settings import Settings

logger = logging.getLogger(__name__)

Credentials: TypeAlias = Callable[[], grpc.ChannelCredentials | None]
"""Gives the TLS towards a worker as its files say now; None speaks plain gRPC."""

_FIRST_RETRY_S: Final = 0.05
_LOADING_POLL_S: Final = 0.2


def plain() -> None:
    """Speak plain gRPC: the `Credentials` of loopback and tests."""


@unique
class WorkerState(StrEnum):
    """Where a worker stands."""

    CONNECTING = "connecting"
    LOADING = "loading"
    READY = "ready"
    SILENT = "silent"
    CLOSED = "closed"


class Worker:
    """One worker of the roster.

    Attributes:
        name: The pod's name.
        address: HOST:PORT of its gRPC service.
        role: The stages it is offered; changes freely.
        view: What placement knows of it.
        book: Keeps the view's load.
        state: Where it stands.
        description: What it says it is; None before the first contact.
        takes_new_work: False once it left the roster, or where the roster says so.
    """

    def __init__(
        self,
        name: str,
        address: str,
        role: Role,
        settings: Settings,
        credentials: Credentials = plain,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Describe a worker; `start` connects to it.

        Args:
            name: The pod's name.
            address: HOST:PORT.
            role: Its role now.
            settings: Deadlines and intervals.
            credentials: Gives the TLS of each new connection; raises ValueError if it cannot.
            on_change: Called when readiness or description change.
        """
        self.name = name
        self.address = address
        self.role = role
        self.view = PodView(name, stages=role.stages, healthy=False)
        self.book = LoadBook(self.view)
        self.state = WorkerState.CONNECTING
        self.description: Description | None = None
        self.takes_new_work = True
        self._past = TrafficTotals()
        self._owed = OwedReleases()
        self._settings = settings
        self._credentials = credentials
        self._on_change = on_change
        self._session: Session | None = None
        self._heard_s = 0.0
        self._suspect_s = settings.workers.suspect_s
        self._suspect_since_s = 0.0
        self._doubted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def session(self) -> Session | None:
        """The open session, if there is one."""
        return self._session

    @property
    def in_flight(self) -> int:
        """Calls of this gateway on this worker."""
        return self._session.in_flight if self._session else 0

    @property
    def traffic(self) -> TrafficTotals:
        """What has come from this worker so far."""
        return self._past.plus(self._session.traffic) if self._session else self._past

    def to_json(self) -> dict[str, Any]:
        """Return what an operator wants to see."""
        description, load = self.description, self.book.latest
        return {
            "name": self.name,
            "address": self.address,
            "role": self.role,
            "takes_new_work": self.takes_new_work,
            "state": self.state,
            "healthy": self.view.healthy,
            "suspect": self.view.suspect,
            "compatibility_hash": self.view.compatibility_hash,
            "description": None if description is None else asdict(description),
            "load": None if load is None else asdict(load),
            "in_flight": {stage.value: self.book.in_flight(stage) for stage in Stage},
        }

    def start(self) -> None:
        """Connect, and stay connected until `close`."""
        self._task = self._loop.create_task(self._run())

    async def close(self) -> None:
        """Hang up; calls in flight fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._become(WorkerState.CLOSED)

    def set_role(self, role: Role) -> None:
        """Offer other stages from now on; what is in flight goes on."""
        self.role = role
        self.view.stages = role.stages

    def offer_new_work(self, offered: bool) -> None:
        """Place new work here, or nothing new; what is in flight goes on."""
        self.takes_new_work = offered
        self._update_health()

    def submit(
        self,
        work: Encode | Generate,
        stage: Stage,
        request_id: str,
        *,
        first_s: float,
        take: Take = drop_event,
        limit_s: float = float("inf"),
        on_completed: Callable[[Outcome], None] | None = None,
        traceparent: str = "",
        priority: int = 0,
    ) -> Call:
        """Start a call; see `Session.submit`.

        Raises:
            CallFailed: There is no connection.
        """
        if self._session is None:
            raise CallFailed(Reason.DISCONNECTED, f"no connection to {self.name}", stage, self.name)
        self.book.start(stage)
        return self._session.submit(
            work,
            stage,
            request_id,
            first_s=first_s,
            take=take,
            limit_s=limit_s,
            on_completed=on_completed,
            traceparent=traceparent,
            priority=priority,
        )

    def advance(self, call: Call, stage: Stage) -> None:
        """Count a call under the stage that it has come to."""
        if call.stage is not stage:
            self.book.end(call.stage)
            call.stage = stage
            self.book.start(stage)

    def cancel(self, call: Call) -> None:
        """Stop a call; harmless if it has ended."""
        if self._session is not None:
            self._session.cancel(call)

    def release(self, handle: KvHandle | EcHandle) -> None:
        """Tell the worker that nobody will take what it keeps; later if it cannot be told now."""
        self._owed.add(handle, monotonic())
        if self._session is not None:
            if isinstance(handle, KvHandle):
                self._session.release(kv=(handle.identifier,))
            else:
                self._session.release(ec=(handle.identifier,))

    def sweep(self, now_s: float) -> None:
        """Fail calls that are out of time, and look whether trust has returned."""
        if self._session is not None:
            self._owed.settle(self._last_heard_s())
            if self._session.expire(now_s):
                self.doubt()
        # Time alone restores no trust: the worker must have been heard since, too.
        if self.view.suspect and now_s >= self._suspect_since_s + self._suspect_s:
            self.view.suspect = self._last_heard_s() <= self._suspect_since_s

    def doubt(self) -> None:
        """Choose this worker last for a while, and ask how it is."""
        self.view.suspect = True
        self._suspect_since_s = monotonic()
        self._doubted.set()

    # The connection's life.

    async def _run(self) -> None:
        pause_s = _FIRST_RETRY_S
        while True:
            started_s = monotonic()
            try:
                await self._connect_once()
                why = "it hung up"
            except grpc.aio.AioRpcError as error:
                why = f"{error.code().name.lower()}"
            except (ValueError, TimeoutError) as error:
                why = str(error)
            if self.state is not WorkerState.CONNECTING:
                logger.warning("worker %s: connection lost: %s", self.name, why)
                self._become(WorkerState.CONNECTING)
            if monotonic() - started_s > self._settings.workers.reconnect_max_s:
                pause_s = _FIRST_RETRY_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.workers.reconnect_max_s)

    async def _connect_once(self) -> None:
        """Connect, wait until the worker is ready, and serve until the connection is lost."""
        async with self._open_channel() as channel:
            client = WorkerClient(channel)
            description = await self._describe(client, self._settings.deadlines.connect_s)
            while not description.ready:
                self._become(WorkerState.LOADING)
                await asyncio.sleep(_LOADING_POLL_S)
                description = await self._describe(client, self._settings.deadlines.connect_s)
            await self._serve(client)

    def _open_channel(self) -> grpc.aio.Channel:
        options: tuple[tuple[str, int | str], ...] = CHANNEL_OPTIONS
        credentials = self._credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, options=options)
        if name := self._settings.workers.tls_server_name:
            options += (("grpc.ssl_target_name_override", name),)
        return grpc.aio.secure_channel(self.address, credentials, options=options)

    async def _describe(self, client: WorkerClient, timeout_s: float) -> Description:
        description = await client.describe(None, timeout=timeout_s)
        self._heard_s = monotonic()
        before, self.description = self.description, description
        if before is None or before.incarnation != description.incarnation:
            self.book.forget_reports()
            self._owed.clear()
        self.view.compatibility_hash = description.compatibility_hash
        if before != description:
            self._on_change()
        return description

    async def _serve(self, client: WorkerClient) -> None:
        session = Session(
            client.session(),
            self.name,
            lambda call: self.book.end(call.stage),
            idle_s=self._settings.deadlines.decode_idle_s,
            release_delay_s=self._settings.workers.release_delay_s,
        )
        self._session = session
        self._heard_s = monotonic()
        if self._owed:
            session.release(*self._owed.send_again(self._heard_s))
        self._become(WorkerState.READY)
        reason = Reason.DISCONNECTED
        parts = [
            self._loop.create_task(session.run()),
            self._loop.create_task(self._watch_load(client)),
            self._loop.create_task(self._watch_health(client)),
        ]
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if parts[2] in ended:
                reason = Reason.UNRESPONSIVE
            for part in ended:
                if not part.cancelled():  # as a call is that the other side cut off
                    part.result()
        finally:
            self._session = None
            self._past = self._past.plus(session.traffic)
            self._update_health()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            session.fail_all(reason, f"{self.name} {_LOSSES[reason]}")

    async def _watch_load(self, client: WorkerClient) -> None:
        watch: Any = client.watch_load(self._settings.workers.load_interval_ms)
        async for load in watch:
            self._on_load(load)

    def _on_load(self, load: Load) -> None:
        self._heard_s = monotonic()
        self.book.report(load)

    async def _watch_health(self, client: WorkerClient) -> None:
        """Ask the worker how it is when it is silent or doubted; return once it is lost."""
        limits = self._settings.workers
        while True:
            doubted = await self._is_doubted(limits.probe_interval_s)
            silent_s = monotonic() - self._last_heard_s()
            ready = self.state is WorkerState.READY
            if ready and not doubted and silent_s < limits.probe_interval_s:
                continue
            try:
                description = await self._describe(client, limits.probe_timeout_s)
                self._become(WorkerState.READY if description.ready else WorkerState.LOADING)
            except grpc.aio.AioRpcError:
                silent_s = monotonic() - self._last_heard_s()
                if silent_s >= limits.probe_timeout_s:
                    self._become(WorkerState.SILENT)
                if silent_s >= limits.lost_after_s:
                    return

    async def _is_doubted(self, timeout_s: float) -> bool:
        """Wait for a doubt, but not longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._doubted.wait()
        except TimeoutError:
            return False
        self._doubted.clear()
        return True

    def _last_heard_s(self) -> float:
        return max(self._heard_s, self._session.heard_s if self._session else 0.0)

    def _become(self, state: WorkerState) -> None:
        if state is not self.state:
            logger.info("worker %s: %s", self.name, state.value)
            self.state = state
            self._update_health()

    def _update_health(self) -> None:
        healthy = (
            self.state is WorkerState.READY and self._session is not None and self.takes_new_work
        )
        if healthy is not self.view.healthy:
            self.view.healthy = healthy
            self._on_change()


_LOSSES: Final = {
    Reason.DISCONNECTED: "closed the connection",
    Reason.UNRESPONSIVE: "does not answer any more",
}
