"""A simulated cluster in one process: gateway, workers, control loop and operator's counts.

    python cluster.py FOLDER MANIFEST        runs until its standard input ends

It is what `epd up` runs, without a process for each program: light enough to run beside others.
The operator beside it has no API server: its calls fail and are counted, as its passes are.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kubernetes.aio import client
from prometheus_client import CollectorRegistry, start_http_server

from epd.api import EPDCluster, initial_roles
from epd.api.load import load_cluster
from epd.api.names import ControlMode
from epd_gateway.__main__ import run as run_gateway
from epd_gateway.command_line import parse_arguments as gateway_arguments
from epd_operator import certificates, local_ports
from epd_operator.cluster import KubernetesCluster
from epd_operator.control.metrics import ControlMetrics
from epd_operator.control.scrape import ScrapedMetrics
from epd_operator.local_commands import gateway_launch, pod_names, worker_launch
from epd_operator.local_control import LocalReporter, controller_of, window_s
from epd_operator.local_ports import WorkerPorts
from epd_operator.local_roster import RosterFile, RosterPod
from epd_operator.metrics import OperatorMetrics
from epd_operator.objects import Key, Kind, Ref
from epd_operator.ports import ClusterCallError
from epd_operator.progress import Progress
from epd_operator.wakeups import Outcome, WakeUps
from epd_worker.__main__ import run as run_worker
from epd_worker.settings import parse_arguments as worker_arguments

HOST: Final = "127.0.0.1"
NAMESPACE: Final = "local"
PORTS_OF_GATEWAY: Final = 3
EXITS: Final = "--exit-with-parent"
"""Not for programs that share a process."""


class OneProcess:
    """All programs of a cluster, as tasks of one loop."""

    def __init__(self, cluster: EPDCluster, folder: Path) -> None:
        """Plan a cluster whose files lie in `folder`."""
        self._cluster = cluster
        self._name = cluster.metadata.name
        self._roster = RosterFile(folder / "roster.json")
        self._control_file = folder / "control.json"
        self._registry = CollectorRegistry()
        first = local_ports.free_block(PORTS_OF_GATEWAY, HOST)
        self._gateway, self._admin, self._control = (f"{HOST}:{first + i}" for i in range(3))
        self._workers: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> dict[str, object]:
        """Start everything; return where metrics and the gateway are."""
        spec = self._cluster.spec
        self._roster.create(self._name, spec.model.served_name)
        for name, role in zip(pod_names(self._cluster), initial_roles(spec), strict=True):
            ports = WorkerPorts.from_block(local_ports.free_block(local_ports.BLOCK_PORTS, HOST))
            arguments = worker_launch(self._cluster, name, ports).command[3:]
            settings = worker_arguments([each for each in arguments if each != EXITS])
            self._begin(run_worker(settings))
            address = f"{HOST}:{ports.grpc}"
            self._workers[name] = f"{HOST}:{ports.metrics}"
            self._roster.add(RosterPod(name=name, address=address, role=role))
        launch = gateway_launch(self._cluster, self._gateway, self._admin, self._roster.path)
        arguments = launch.command[3:]
        self._begin(run_gateway(gateway_arguments([a for a in arguments if a != EXITS])))
        host, _, port = self._control.rpartition(":")
        start_http_server(int(port), host, self._registry)
        self._begin(self._operate())
        if spec.control.mode is not ControlMode.OFF:
            self._begin(self._flip())
        addresses = [self._gateway, self._control, *self._workers.values()]
        return {"gateway": f"http://{self._gateway}", "targets": addresses}

    async def until_end_of(self, task: "asyncio.Task[str]") -> None:
        """Wait for a task; what one of the programs fails of before is raised."""
        done, _ = await asyncio.wait([task, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()

    async def stop(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, program: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(program))

    async def _flip(self) -> None:
        """Run the control loop, as `epd up` does."""
        interval_s = self._cluster.spec.control.interval_seconds
        metrics = ScrapedMetrics(
            lambda: [f"http://{self._gateway}/metrics"],
            lambda: {name: f"http://{at}/metrics" for name, at in self._workers.items()},
            window_s(interval_s),
        )
        mode = self._cluster.spec.control.mode
        reporter = ControlMetrics(self._registry).reporter(
            (NAMESPACE, self._name), LocalReporter(mode, self._control_file, lambda _: None)
        )
        admin_url = f"http://{self._admin}"
        await controller_of(self._cluster, self._roster, lambda: admin_url, metrics, reporter).run(
            interval_s
        )

    async def _operate(self) -> None:
        """Count as an operator does whose API server does not answer."""
        key, progress = Key(NAMESPACE, self._name), Progress()
        settings = client.Configuration(host=f"http://{HOST}:1")
        settings.retries = None
        async with KubernetesCluster(client.ApiClient(settings)) as server:
            counted = OperatorMetrics(self._registry, progress, server.calls)
            now = datetime.now(UTC)
            authority = {"data": certificates.new_authority(None, self._name, now)}
            leaf = {"data": certificates.new_leaf(authority, now)}
            counted.note_expiries(key, certificates.expiries(authority, leaf))

            async def look(key: Key) -> Outcome:
                with suppress(ClusterCallError):
                    await server.get(Ref(Kind.EPD_CLUSTER, key.namespace, key.name))
                return Outcome(look_again_s=1, has_failed=True)

            wakeups = WakeUps(look, progress)
            counted.follow(wakeups)
            wakeups.wake(key)
            try:
                await asyncio.Event().wait()
            finally:
                await wakeups.close()


async def run(folder: Path, manifest: Path) -> None:
    """Run the cluster until standard input ends."""
    one = OneProcess(load_cluster(manifest), folder)
    try:
        print(json.dumps(await one.start()), flush=True)
        await one.until_end_of(asyncio.create_task(asyncio.to_thread(sys.stdin.read)))
    finally:
        await one.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
