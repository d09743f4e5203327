"""A cluster as processes on this machine: started, watched, mended and ended here.

A worker enters the roster when it says that it is ready, and leaves it the moment it dies. No
process outlives us: children watch their parent, and what a child leaves behind in its process
group is swept.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, start_http_server

from epd.api import EPDCluster, initial_roles
from epd.api.names import ControlMode
from epd.tracing import start_tracing
from epd.vocabulary import Component, Role
from epd_operator import local_commands, local_ports, local_probe
from epd_operator.control.metrics import ControlMetrics
from epd_operator.control.scrape import ScrapedMetrics
from epd_operator.local_commands import WORKER_HOST, GpuShare, Launch
from epd_operator.local_control import LocalReporter, ToldPass, controller_of, window_s
from epd_operator.local_keeper import Keeper, LocalEvent, Report
from epd_operator.local_ports import BLOCK_PORTS, WorkerPorts
from epd_operator.local_roster import RosterFile, RosterPod
from epd_operator.local_state import (
    LOCAL_NAMESPACE,
    LocalPod,
    PodState,
    RunningCluster,
    StateDirectory,
)

GATEWAY: Final = "gateway"
NO_PORT: Final = 0
POLL_INTERVAL_S: Final = 0.01
GATEWAY_GRACE_S: Final = 6.0
WORKER_GRACE_S: Final = 20.0


class WorkerKeeper(Keeper):
    """One worker, at new ports after every start."""

    def __init__(
        self,
        cluster: EPDCluster,
        name: str,
        role: Role,
        share: GpuShare,
        logs: Path,
        roster: RosterFile,
        report: Report,
        fault_file: Path,
    ) -> None:
        """Plan a worker that enters the roster in `role`."""
        super().__init__(name, logs, report)
        self._fault_file = fault_file
        self.address = ""
        self.metrics_url = ""
        self.role = role
        self._cluster = cluster
        self._share = share
        self._roster = roster
        self._first_port = NO_PORT

    def launch(self) -> Launch:
        """Return how to start it at ports that are free now."""
        local_ports.release(self._first_port, BLOCK_PORTS)
        self._first_port = local_ports.free_block(BLOCK_PORTS, WORKER_HOST)
        ports = WorkerPorts.from_block(self._first_port)
        self.address = f"{WORKER_HOST}:{ports.grpc}"
        self.metrics_url = f"http://{WORKER_HOST}:{ports.metrics}/metrics"
        return local_commands.worker_launch(
            self._cluster, self.name, ports, self._share, self._fault_file
        )

    async def probe(self) -> PodState:
        """Return STARTING until it listens, LOADING until it says that it is ready."""
        if not await local_probe.listens(self.address):
            return PodState.STARTING
        async with local_probe.worker(self.address) as client:
            description = await local_probe.describe(client)
        if description is None or description.process_id != self.process_id:
            return self.state  # too busy loading to answer
        return PodState.READY if description.ready else PodState.LOADING

    def entered(self) -> None:
        """Put it in the roster."""
        self._roster.add(RosterPod(name=self.name, address=self.address, role=self.role))

    def left(self) -> str:
        """Take it out of the roster, keeping in mind the role it was last flipped to."""
        role = self._roster.remove(self.name)
        if role is None:
            return ""
        self.role = role
        return "taken out of the roster; "

    def snapshot(self) -> LocalPod:
        """Return what the other commands may know of it."""
        return LocalPod(
            name=self.name,
            role=self.role,
            state=self.state,
            process_id=self.process_id,
            address=self.address,
            restarts=self.restarts,
        )


class GatewayKeeper(Keeper):
    """The gateway: its HTTP address stays, its admin address is new after every start."""

    def __init__(
        self, cluster: EPDCluster, listen: str, logs: Path, roster: Path, report: Report
    ) -> None:
        """Plan a gateway at `listen`, HOST:PORT."""
        super().__init__(GATEWAY, logs, report)
        self.url = f"http://{listen}"
        self.admin_url = ""
        self._cluster = cluster
        self._listen = listen
        self._roster = roster
        self._admin_port = NO_PORT

    def launch(self) -> Launch:
        """Return how to start it."""
        local_ports.release(self._admin_port, 1)
        self._admin_port = local_ports.free_block(1, WORKER_HOST)
        admin_listen = f"{WORKER_HOST}:{self._admin_port}"
        self.admin_url = f"http://{admin_listen}"
        return local_commands.gateway_launch(
            self._cluster, self._listen, admin_listen, self._roster
        )

    async def probe(self) -> PodState:
        """Return READY once it can serve, WAITING until it has workers."""
        answer = await local_probe.get_json(f"{self.admin_url}/ready")
        if answer is None:
            return PodState.STARTING
        # Started again it serves at once, even where flips have left a stage without a pod.
        return PodState.READY if answer[0] == 200 or self.restarts else PodState.WAITING

    def entered(self) -> None:
        """Nobody needs to be told: clients know the address."""

    def left(self) -> str:
        """Say what its end means."""
        return "its streams are lost; "


class LocalCluster:
    """One cluster. `start` it once; `stop` it, whatever happened."""

    def __init__(
        self,
        cluster: EPDCluster,
        directory: StateDirectory,
        *,
        listen: str,
        report: Report,
        gpus: Sequence[str] = (),
        tell: ToldPass = lambda _: None,
    ) -> None:
        """Plan a cluster.

        Args:
            cluster: The manifest.
            directory: Where its files go; claimed by the caller.
            listen: HOST:PORT of the gateway.
            report: Told of every change, from the event loop.
            gpus: The GPUs that workers may use, as CUDA_VISIBLE_DEVICES names them.
            tell: Told of passes of the control loop that did something, or could not.
        """
        self._cluster = cluster
        self._directory = directory
        self._listener = report
        self._tell = tell
        self._roster = RosterFile(directory.roster_file)
        self._tasks: list[asyncio.Task[None]] = []
        self._control_task: asyncio.Task[None] | None = None
        self._control_metrics_url = ""
        self._all_ready = asyncio.Event()
        self._gateway = GatewayKeeper(
            cluster, listen, directory.logs, directory.roster_file, self._changed
        )
        names = local_commands.pod_names(cluster)
        roles = initial_roles(cluster.spec)
        shares = local_commands.gpu_shares(cluster.spec, gpus)
        self._workers = [
            WorkerKeeper(
                *(cluster, name, role, share, directory.logs, self._roster, self._changed),
                fault_file=directory.fault_file(name),
            )
            for name, role, share in zip(names, roles, shares, strict=True)
        ]
        # Engines measure free GPU memory as they start: two on one GPU must not do so at once.
        turns: defaultdict[tuple[str, ...], asyncio.Lock] = defaultdict(asyncio.Lock)
        for worker, share in zip(self._workers, shares, strict=True):
            if share.sharers > 1:
                worker.start_turn = turns[share.gpus]

    async def start(self) -> RunningCluster:
        """Start every process; return once the gateway knows every pod and can serve.

        Raises:
            LocalError: A process ended before it was ready; its last lines are in the message.
        """
        self._roster.create(self._cluster.metadata.name, self._cluster.spec.model.served_name)
        self._tasks = [asyncio.create_task(keeper.run()) for keeper in self._keepers()]
        ready = asyncio.create_task(self._gateway_follows())
        try:
            done, _ = await asyncio.wait([ready, *self._tasks], return_when="FIRST_COMPLETED")
        finally:
            ready.cancel()
        for task in done:
            task.result()
        if self._cluster.spec.control.mode is not ControlMode.OFF:
            port = local_ports.free_block(1, WORKER_HOST)
            self._control_metrics_url = f"http://{WORKER_HOST}:{port}/metrics"
            self._control_task = asyncio.create_task(self._control(port))
            self._tasks.append(self._control_task)
            self._publish()
        return self.snapshot()

    async def watch(self) -> None:
        """Keep the cluster up until cancelled."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """End everything: the gateway first, so that streams in flight keep their workers."""
        for keeper in self._keepers():
            keeper.retire()
        if self._control_task is not None:
            self._control_task.cancel()
        try:
            await self._gateway.stop(GATEWAY_GRACE_S)
            await asyncio.gather(*(worker.stop(WORKER_GRACE_S) for worker in self._workers))
        finally:
            self.kill()  # whatever was just being started
            if self._tasks:
                await asyncio.wait(self._tasks)

    def kill(self) -> None:
        """End every process now, without asking."""
        for keeper in self._keepers():
            keeper.kill()

    def snapshot(self) -> RunningCluster:
        """Return what the other commands may know."""
        return RunningCluster(
            name=self._cluster.metadata.name,
            model=self._cluster.spec.model.served_name,
            engine=self._cluster.spec.engine.type,
            process_id=os.getpid(),
            gateway_process_id=self._gateway.process_id,
            gateway_url=self._gateway.url,
            admin_url=self._gateway.admin_url,
            control_metrics_url=self._control_metrics_url,
            pods=tuple(worker.snapshot() for worker in self._workers),
        )

    async def _control(self, metrics_port: int) -> None:
        """Move roles with the traffic, and tell of it at a port of this machine."""
        registry = CollectorRegistry()
        counted = ControlMetrics(registry)
        server, thread = start_http_server(metrics_port, WORKER_HOST, registry)
        try:
            await self._control_loop(counted)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
            local_ports.release(metrics_port, 1)

    async def _control_loop(self, counted: ControlMetrics) -> None:
        interval_s = self._cluster.spec.control.interval_seconds
        metrics = ScrapedMetrics(
            lambda: [f"{self._gateway.url}/metrics"],
            lambda: {w.name: w.metrics_url for w in self._workers if w.state is PodState.READY},
            window_s(interval_s),
        )
        reporter = LocalReporter(
            self._cluster.spec.control.mode, self._directory.control_file, self._tell
        )
        tracing = start_tracing(Component.OPERATOR, self._cluster.metadata.name)
        noted = counted.reporter((LOCAL_NAMESPACE, self._cluster.metadata.name), reporter)
        controller = controller_of(
            self._cluster, self._roster, lambda: self._gateway.admin_url, metrics, noted, tracing
        )
        try:
            await controller.run(interval_s)
        finally:
            if tracing is not None:
                tracing.close()

    def _keepers(self) -> list[Keeper]:
        return [*self._workers, self._gateway]

    def _changed(self, event: LocalEvent) -> None:
        self._publish()
        self._listener(event)
        if all(keeper.state is PodState.READY for keeper in self._keepers()):
            self._all_ready.set()

    def _publish(self) -> None:
        """Tell the other commands what there is, and a Prometheus where."""
        self._directory.write(self.snapshot())
        urls = [worker.metrics_url for worker in self._workers if worker.metrics_url]
        urls += [f"{self._gateway.url}/metrics", self._control_metrics_url]
        addresses = [urlsplit(url).netloc for url in urls if url]
        self._directory.write_targets(self._cluster.metadata.name, addresses)

    async def _gateway_follows(self) -> None:
        """Wait until all are ready and the gateway has applied the roster that says so."""
        await self._all_ready.wait()
        version = self._roster.read().version
        while True:
            applied = await local_probe.applied_version(self._gateway.admin_url)
            if applied is not None and applied >= version:
                return
            await asyncio.sleep(POLL_INTERVAL_S)
