"""The operator on a real API server: what a user applies, edits and deletes."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import yaml
from fake_kubernetes import FakeWorkers
from faulty_api_server import faulty_api_server
from operator_world import IMAGES
from pod_player import PodPlayer
from running_operator import (
    ROOT,
    Clusters,
    CountingCluster,
    operator,
    settings,
    until,
)

from epd_operator.cluster import KubernetesCluster, connect
from epd_operator.objects import Key
from epd_operator.reconcile import Reconciler
from epd_operator.service import SystemClock

SOON = {"drainSeconds": 1}
"""Pods here have no address that answers: they are not waited for."""

CHART = ROOT / "charts" / "epd" / "templates" / "_helpers.tpl"
RULES = re.compile(r'define "epd\.rules" -}}\n(.*?)\n{{- end', re.S)


def chart_rules() -> list[dict[str, list[str]]]:
    """Return the rights that the chart gives the operator."""
    found = RULES.search(CHART.read_text())
    assert found is not None
    rules: list[dict[str, list[str]]] = yaml.safe_load(found[1])
    return rules


def account(clusters: Clusters) -> Path:
    """Return the kubeconfig of an operator with the rights of the chart here, and no more."""
    lease = {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "create", "patch"],
    }
    rules = [*chart_rules(), lease]
    return clusters.api.service_account(clusters.namespace, "operator", rules=rules)


async def test_pods_meet_the_restricted_standard(clusters: Clusters, nodes: PodPlayer) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    clusters.merge(f"/api/v1/namespaces/{clusters.namespace}", {"metadata": {"labels": labels}})
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create()
        await clusters.settled()
        gateways = clusters.pods(component="gateway")
        assert len(gateways) == 1


async def test_a_pass_over_a_settled_cluster_writes_nothing(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create()
        await clusters.settled()
    api = await connect(clusters.api.kubeconfig)
    async with KubernetesCluster(api) as real:
        watched = CountingCluster(real)
        passes = Reconciler(watched, FakeWorkers(), SystemClock(), IMAGES)
        for _ in range(3):
            outcome = await passes.run(Key(clusters.namespace, "demo"))
            assert not outcome.has_failed
    assert watched.writes == []


async def test_an_operator_that_is_woken_for_nothing_writes_nothing(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    async with faulty_api_server(clusters.api) as way:
        path = clusters.api.folder / f"{clusters.namespace}.kubeconfig"
        config = way.kubeconfig(clusters.api.kubeconfig, path)
        async with operator(settings(config, [clusters.namespace])):
            clusters.create()
            await clusters.settled()
            await until(lambda: clusters.condition("MetricsAvailable")[0] == "False")

            def looks() -> int:
                return sum(path.endswith("/deployments/demo-gateway") for _, path, _ in way.done)

            def writes() -> list[tuple[str, str, int]]:
                return [call for call in way.done if call[0] != "GET"]

            wrote = -1
            while wrote != len(writes()):  # what began with the last change is done
                wrote, seen = len(writes()), looks()
                note = {"metadata": {"annotations": {"example.org/look": str(seen)}}}
                clusters.merge(clusters.path(), note)
                await until(lambda seen=seen: looks() > seen)  # type: ignore[misc]
            for number in range(5):
                seen = looks()
                note = {"metadata": {"annotations": {"example.org/look": f"again {number}"}}}
                clusters.merge(clusters.path(), note)
                await until(lambda seen=seen: looks() > seen)  # type: ignore[misc]
            assert writes()[wrote:] == []


async def test_an_upgrade_replaces_every_pod_one_by_one(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create(rollout=SOON)
        await clusters.settled()
        before = {pod["metadata"]["uid"] for pod in clusters.pods()}
        clusters.edit(podTemplate={"metadata": {"annotations": {"example.org/release": "2"}}})
        await until(lambda: not before & {pod["metadata"]["uid"] for pod in clusters.pods()})
        await clusters.settled()
        assert clusters.roles() == Counter({"encode": 1, "prefill": 1, "decode": 1})


async def test_one_of_two_operators_works_and_the_other_takes_over(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    common = {"lease_namespace": clusters.namespace}
    config = account(clusters)

    def holder() -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{clusters.namespace}/leases/epd-operator"
        lease = clusters.api.client.get(path).json()
        return str((lease.get("spec") or {}).get("holderIdentity", ""))

    async with operator(settings(config, [clusters.namespace], identity="b", **common)):
        await until(lambda: holder() == "b")
        async with operator(settings(config, [clusters.namespace], identity="a", **common)):
            clusters.create()
            await clusters.settled()
            assert holder() == "b"
            assert len(clusters.pods()) == 3
    async with operator(settings(config, [clusters.namespace], identity="a", **common)):
        await until(lambda: holder() == "a")
        clusters.edit(replicas=4)
        await clusters.settled()
        assert len(clusters.pods()) == 4


async def test_pods_that_no_node_takes_stall_the_cluster(clusters: Clusters) -> None:
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create()
        await until(lambda: clusters.condition("Stalled") == ("True", "Unschedulable"))
        assert clusters.condition("Ready") == ("False", "PodsNotReady")


async def test_a_quota_that_is_exhausted_stalls_the_cluster_until_there_is_room(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    quotas = f"/api/v1/namespaces/{clusters.namespace}/resourcequotas"
    body = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}}
    clusters.api.call("POST", quotas, body)
    await until(lambda: "hard" in clusters.api.call("GET", f"{quotas}/few").get("status", {}))
    async with operator(settings(clusters.api.kubeconfig, [clusters.namespace])):
        clusters.create()
        await until(lambda: clusters.condition("Stalled") == ("True", "QuotaExceeded"))
        clusters.merge(f"{quotas}/few", {"spec": {"hard": {"pods": "9"}}})
        await clusters.settled()
        assert clusters.roles() == Counter({"encode": 1, "prefill": 1, "decode": 1})


async def test_without_namespaces_it_works_in_all_of_them(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    api = clusters.api
    config = api.service_account(clusters.namespace, "operator", cluster_rules=chart_rules())
    other = Clusters(api, api.create_namespace())
    async with operator(settings(config, [])), PodPlayer(api, other.namespace):
        clusters.create()
        other.create(replicas=2)
        await clusters.settled()
        await other.settled()
        assert (len(clusters.pods()), len(other.pods())) == (3, 2)
    api.delete_namespace(other.namespace)


async def test_applied_scaled_and_deleted_with_the_rights_of_the_chart(
    clusters: Clusters, nodes: PodPlayer
) -> None:
    kubectl, here = clusters.api.kubectl, ("-n", clusters.namespace)
    async with operator(settings(account(clusters), [clusters.namespace])):
        clusters.create(rollout=SOON)
        await clusters.settled()
        assert clusters.roles() == Counter({"encode": 1, "prefill": 1, "decode": 1})
        kubectl("wait", "--for=condition=Ready", "epd/demo", "--timeout=5s", *here)
        assert kubectl("get", "epd", "demo", "--no-headers", *here).split()[0] == "demo"
        kubectl("scale", "epd/demo", "--replicas=6", *here)
        await clusters.settled()
        assert sum(clusters.roles().values()) == 6
        kubectl("scale", "epd/demo", "--replicas=2", *here)
        await clusters.settled()
        assert len(clusters.pods()) == 2
        # In a thread: the operator runs in this one.
        await asyncio.to_thread(kubectl, "delete", "epd/demo", "--timeout=60s", *here)
        await until(lambda: not clusters.pods() and not clusters.pods(component="gateway"))
