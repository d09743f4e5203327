"""A cluster of `epd up` with a process for each pod, watched by Prometheus and an Alertmanager.

The rules are ours with every duration divided by `FASTER`. Beside it runs a gateway of another
release: a replica of an upgrade that does not end.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alert_pager import Pager, pager
from gen_monitoring import rules_text
from monitoring.boards import BOARDS
from monitoring.live.answers import filled
from monitoring.live.prometheus import PrometheusServer, Target
from monitoring.live.watched import until as until_sync
from running_cluster import Cluster

from epd.api.load import load_cluster
from epd_operator import local_ports
from epd_operator.local_commands import gateway_launch
from epd_operator.local_roster import RosterFile
from epd_operator.local_state import LocalPod

FASTER = 30
NAME = "watched"
MODEL = "simulated"
HOST = "127.0.0.1"
PATIENCE_S = 150.0
OTHER_RELEASE = "0.0.1"
UNHURRIED = {"__scrape_interval__": "3s", "__scrape_timeout__": "3s"}
"""Two releases must be seen for a minute without a gap, and a busy machine answers slowly."""
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"

# An image takes a quarter of a second, a token 30 ms.
CURVES = """
encode: {batch_ms: 0, image_ms: [[0, 250]], max_batch_images: 1}
prefill_ms: [[0, 20]]
decode_step: {batch_ms: [[1, 30]], ms_per_1000_tokens: 0}
"""

_OTHER_GATEWAY = f"""
import importlib.metadata, runpy, sys
importlib.metadata.version = lambda _: {OTHER_RELEASE!r}
sys.argv = ["epd-gateway", *sys.argv[1:]]
runpy.run_module("epd_gateway", run_name="__main__", alter_sys=True)
"""


def manifest(curves: Path) -> dict[str, Any]:
    """Return an EPDCluster whose bounds leave the control loop no pod to give."""
    return {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"source": MODEL, "servedName": MODEL},
            "engine": {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}},
            "replicas": 4,
            "method": "E-P-D",
            "roles": [
                {"name": "Encode", "min": 1, "max": 1},
                {"name": "Prefill", "min": 1, "max": 1},
                {"name": "Decode", "min": 2, "max": 2},
            ],
            "slo": {"ttftMilliseconds": 1500, "tpotMilliseconds": 60, "attainmentPercent": 95},
            "control": {"mode": "Active", "intervalSeconds": 1, "cooldownSeconds": 0},
        },
    }


@dataclass
class WatchedUp:
    """What runs."""

    cluster: Cluster
    roster: RosterFile
    prometheus: PrometheusServer
    pager: Pager
    other_roster: Path
    other_gateway: "subprocess.Popen[bytes]"

    def pod(self, role: str, number: int = 0) -> LocalPod:
        """Return a pod that has a role, as it is now."""
        return [pod for pod in self.cluster.running.pods if pod.role == role][number]

    @property
    def url(self) -> str:
        """The gateway's."""
        return self.cluster.running.gateway_url

    @contextmanager
    def fault(self, kind: str, pod: str, seconds: float = 120, *more: str) -> Iterator[None]:
        """Run `epd fault` for as long as the block lasts, and at most so long."""
        words = ["fault", kind, pod, "--for", str(seconds), *more]
        with subprocess.Popen(self.epd(words), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline().startswith(f"{pod}: process ")
                yield
            finally:
                process.send_signal(signal.SIGTERM)  # it undoes what it did
                process.wait()

    def epd(self, words: list[str]) -> list[str]:
        """Return a command about this cluster."""
        chosen = ["--state-dir", str(self.cluster.state.path)]
        return [sys.executable, "-m", "epd_cli", *words, *chosen]

    def first_command_of(self, alert: str) -> str:
        """Run the first command of an alert's runbook, as one of this cluster; return its words.

        What stands for `kubectl epd` with a cluster of `epd up`, the runbooks' own page says.
        """
        first = (RUNBOOKS / f"{alert}.md").read_text().partition("```sh\n")[2].splitlines()[0]
        for line in (RUNBOOKS / "README.md").read_text().splitlines():
            cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
            if cells[0] == first:
                words = shlex.split(cells[1])
                assert words[0] == "epd"
                done = subprocess.run(
                    self.epd(words[1:]), capture_output=True, text=True, timeout=60
                )
                assert done.returncode == 0, done.stderr
                return done.stdout
        raise AssertionError(f"no word of {first!r} for a cluster of epd up")

    def ask(self, query: str) -> list[float]:
        """Return the values of a query now."""
        found = self.prometheus.ask("query", query=filled(query))["result"]
        return [float(each["value"][1]) for each in found]

    def is_red(self, title: str, alert: str) -> bool:
        """Tell whether a panel that leads to an alert's runbook shows a number beyond its limit."""
        (panel,) = (p for board in BOARDS for p in board.panels if p.title == title)
        assert alert in panel.runbooks
        values = [value for query in panel.queries for value in self.ask(query.expr)]
        if panel.bad_from is not None:
            return any(value >= panel.bad_from for value in values)
        assert panel.bad_below is not None
        return any(value < panel.bad_below for value in values)

    def fires(self, *alerts: str) -> None:
        """Wait until the pager was told of alerts."""
        self._until(lambda: self.pager.firing >= set(alerts), f"{alerts} do not fire")

    def is_quiet_of(self, *alerts: str) -> None:
        """Wait until alerts do not fire."""
        self._until(lambda: not self.pager.firing & set(alerts), f"{alerts} do not end")

    def until(self, holds: Callable[[], object]) -> None:
        """Wait for something."""
        self._until(holds, "still not so")

    def _until(self, holds: Callable[[], object], complaint: str) -> None:
        try:
            until_sync(holds, PATIENCE_S)
        except TimeoutError:
            states = self.prometheus.alerts()
            raise AssertionError(f"{complaint}; told {self.pager.firing}, has {states}") from None


@contextmanager
def watched_up(folder: Path) -> Iterator[WatchedUp]:
    """Run all of it in an empty folder."""
    curves, rules = folder / "curves.yaml", folder / "rules.yaml"
    curves.write_text(CURVES)
    rules.write_text(rules_text(FASTER))
    cluster = Cluster(manifest(curves), folder)
    with (
        pager(folder / "alertmanager") as noted,
        PrometheusServer(
            folder / "prometheus", [rules], [noted.address], [cluster.state.targets_file]
        ) as server,
    ):
        cluster.start()
        try:
            with _other_gateway(folder, cluster) as (process, roster, metrics):
                labels = {"namespace": "local", "epd_dev_cluster": NAME, **UNHURRIED}
                server.set_targets([Target(metrics, labels)])
                own = RosterFile(cluster.state.roster_file)
                yield WatchedUp(cluster, own, server, noted, roster, process)
        finally:
            cluster.stop()


@contextmanager
def _other_gateway(
    folder: Path, cluster: Cluster
) -> Iterator[tuple["subprocess.Popen[bytes]", Path, str]]:
    """Run a second gateway, of another release and by a roster of its own: a copy."""
    roster = folder / "other.json"
    roster.write_text(cluster.state.roster_file.read_text())
    first = local_ports.free_block(2, HOST)
    listen, admin = (f"{HOST}:{first + number}" for number in range(2))
    launch = gateway_launch(load_cluster(folder / "cluster.yaml"), listen, admin, roster)
    command = [sys.executable, "-c", _OTHER_GATEWAY, *launch.command[3:]]
    with (folder / "other.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
    try:
        yield process, roster, listen
    finally:
        process.kill()
        process.wait()
        local_ports.release(first, 2)
