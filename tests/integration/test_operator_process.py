"""`epd-operator` as a process: what it says, how it ends, and that its end changes nothing."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from operator_process import operator_process
from pod_player import PodPlayer
from running_operator import Clusters, operator, settings, until

from epd_operator import local_ports, progress, wakeups
from epd_operator.objects import Key
from epd_operator.reconcile import Reconciler
from epd_operator.wakeups import Outcome

HOST = "127.0.0.1"


async def test_killed_in_the_middle_it_goes_on_at_the_next_start(clusters: Clusters) -> None:
    here = {"kubeconfig": clusters.api.kubeconfig}
    async with PodPlayer(clusters.api, clusters.namespace):
        async with operator_process(f"--namespace={clusters.namespace}", **here) as first:
            clusters.create(replicas=20)
            await until(lambda: len(clusters.pods()) >= 3)
            first.kill()
            await first.wait()
        async with operator_process(f"--namespace={clusters.namespace}", **here) as second:
            await clusters.settled()
            assert len(clusters.pods()) == 20
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0


async def test_probes_and_metrics_are_answered(clusters: Clusters) -> None:
    first = local_ports.free_block(2, HOST)
    ports = (f"--liveness-port={first}", f"--metrics-port={first + 1}")
    where = f"--namespace={clusters.namespace}"
    async with operator_process(*ports, where, kubeconfig=clusters.api.kubeconfig):

        def says(port: int, path: str, what: str) -> bool:
            try:
                answer = httpx.get(f"http://{HOST}:{port}{path}", trust_env=False)
            except httpx.HTTPError:
                return False
            return answer.is_success and what in answer.text

        await until(lambda: says(first, "/healthz", "ok"))
        await until(lambda: says(first, "/readyz", "ok"))
        await until(lambda: says(first + 1, "/metrics", "epd_operator_leading 1.0"))
    local_ports.release(first, 2)


async def test_a_pass_that_hangs_fails_the_liveness_probe(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SLACK_S", 1.0)
    monkeypatch.setattr(wakeups, "PASS_DEADLINE_S", 1.0)
    port, pass_ = local_ports.free_block(1, HOST), Reconciler.run
    may_end = asyncio.Event()

    async def hang(self: Reconciler, key: Key) -> Outcome:
        if key.name == "stuck":
            while not may_end.is_set():
                with suppress(asyncio.CancelledError):
                    await may_end.wait()
        return await pass_(self, key)

    def answer() -> httpx.Response:
        return httpx.get(f"http://{HOST}:{port}/healthz", trust_env=False)

    monkeypatch.setattr(Reconciler, "run", hang)
    here = settings(clusters.api.kubeconfig, [clusters.namespace], liveness_port=port)
    async with operator(here):
        try:
            clusters.create()
            await until(lambda: clusters.condition("Ready")[0] == "False")
            assert (await asyncio.to_thread(answer)).status_code == 200
            clusters.create("stuck")
            await until(lambda: answer().status_code == 503)
            where = f"passes of {clusters.namespace}/stuck"
            assert where in (await asyncio.to_thread(answer)).text
        finally:
            may_end.set()
    local_ports.release(port, 1)


async def test_a_kubeconfig_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    async with operator_process(kubeconfig=tmp_path / "none") as process:
        _, said = await process.communicate()
        assert process.returncode == 2
        assert said.decode().count("\n") == 1
        assert str(tmp_path / "none") in said.decode()
