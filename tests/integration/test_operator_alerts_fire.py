"""The operator's alerts, fired by their faults: its own process, a real API server, a Prometheus.

The rules are ours, generated with every duration divided by one factor; a real Alertmanager tells
of them where there is one.
"""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from alert_faults import OF_OPERATOR
from alert_pager import Pager, pager
from faulty_api_server import Fault, FaultyApiServer, faulty_api_server
from gen_monitoring import rules_text
from kube.control_plane import ControlPlane
from monitoring.live.prometheus import PrometheusServer, Target
from operator_process import operator_process
from programs_of_prometheus import needs_prometheus
from running_operator import Clusters, until

from epd_operator import certificates, local_ports

FASTER = 60
HOST = "127.0.0.1"
NAMES = [f"c{number}" for number in range(12)]
PATIENCE_S = 120.0

# What blocks the main loop, as a call without await would; threads go on.
HANGS = """
import runpy, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
sys.argv = ["epd-operator", *sys.argv[1:]]
runpy.run_module("epd_operator", run_name="__main__", alter_sys=True)
"""

pytestmark = [pytest.mark.timeout(300), needs_prometheus]


@dataclass
class Watched:
    """An operator's world, and who watches it."""

    clusters: Clusters
    way: FaultyApiServer
    kubeconfig: Path
    prometheus: PrometheusServer
    pager: Pager
    metrics_port: int

    async def fires(self, *alerts: str) -> None:
        await until(lambda: self.pager.firing >= set(alerts), self.said, PATIENCE_S)

    async def is_quiet_of(self, *alerts: str) -> None:
        await until(lambda: not self.pager.firing & set(alerts), self.said, PATIENCE_S)

    def said(self) -> str:
        return f"told {self.pager.firing}, has {self.prometheus.alerts()}"

    def leaf(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.clusters.namespace}/secrets/{name}-tls"


@pytest.fixture
async def watched(
    epdclusters: ControlPlane, namespace: str, tmp_path: Path
) -> AsyncIterator[Watched]:
    clusters = Clusters(epdclusters.api, namespace)
    rules = tmp_path / "rules.yaml"
    rules.write_text(rules_text(FASTER))
    port = local_ports.free_block(1, HOST)
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(faulty_api_server(clusters.api))
        noted = stack.enter_context(pager(tmp_path / "alertmanager"))
        server = stack.enter_context(
            PrometheusServer(tmp_path / "prometheus", [rules], [noted.address])
        )
        server.set_targets([Target(f"{HOST}:{port}", {"namespace": "operators"})])
        config = way.kubeconfig(clusters.api.kubeconfig, tmp_path / "kubeconfig")
        yield Watched(clusters, way, config, server, noted, port)
    local_ports.release(port, 1)


def refuses_to_write(request: web.Request) -> Fault | None:
    """Refuse what an operator without rights may not: Secrets and pods."""
    kinds = ("/secrets", "/pods")
    is_ours = request.method != "GET" and any(kind in request.path for kind in kinds)
    return Fault(403) if is_ours else None


async def test_every_alert_of_the_operator_is_fired_by_its_fault_and_resolves(
    watched: Watched,
) -> None:
    clusters, way = watched.clusters, watched.way
    options = (f"--namespace={clusters.namespace}", f"--metrics-port={watched.metrics_port}")
    run = {"kubeconfig": watched.kubeconfig, "program": ("-c", HANGS)}
    async with operator_process(*options, **run) as operator:
        for name in NAMES:
            clusters.create(name, replicas=1, control={"mode": "Off"})
        client = clusters.api.client
        await until(lambda: all(client.get(watched.leaf(name)).is_success for name in NAMES))
        await watched.is_quiet_of(*OF_OPERATOR)

        way.fault_of = refuses_to_write
        clusters.merge(watched.leaf(NAMES[0]), {"data": ends_soon(NAMES[0], watched)})
        for name in NAMES:
            clusters.edit(name, replicas=2)
        await watched.fires("EPDOperatorPassesFail", "EPDCertificateExpires")
        way.fault_of = lambda request: None
        await watched.is_quiet_of("EPDOperatorPassesFail", "EPDCertificateExpires")

        operator.send_signal(signal.SIGUSR1)
        await watched.fires("EPDOperatorStuck")
        assert "EPDOperatorAbsent" not in watched.pager.firing
        operator.kill()
        await operator.wait()
        await watched.fires("EPDOperatorAbsent")
        await watched.is_quiet_of("EPDOperatorStuck")
    async with operator_process(*options, **run):
        await watched.is_quiet_of(*OF_OPERATOR)


def ends_soon(name: str, watched: Watched) -> dict[str, str]:
    """Return a leaf of a cluster's own authority that was made 90 days ago, but for an hour."""
    path = watched.leaf(name).replace("-tls", "-ca")
    authority = watched.clusters.api.client.get(path).raise_for_status().json()
    made = datetime.now(UTC) - certificates.LEAF_LIFE + timedelta(hours=1)
    return dict(certificates.new_leaf(authority, made))
