"""The operator's adapter on a real API server: the contract, and what only a real one refuses."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cluster_contract import ClusterContract, Server
from kube.control_plane import ControlPlane

from epd_operator.cluster import KubernetesCluster, ServerNotFoundError, connect
from epd_operator.objects import Kind
from epd_operator.ports import RefusedError, UnavailableError


@pytest.fixture
async def server(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Server]:
    """Return the adapter, in a namespace of its own."""
    async with KubernetesCluster(await connect(control_plane.api.kubeconfig)) as cluster:
        yield Server(cluster, namespace)


class TestKubernetes(ClusterContract):
    """The real API server."""


async def test_a_quota_that_is_exhausted_has_its_own_word(
    server: Server, control_plane: ControlPlane
) -> None:
    path = f"/api/v1/namespaces/{server.namespace}/resourcequotas"
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"services": "0"}}}
    control_plane.api.call("POST", path, body)
    service = {
        **Kind.SERVICE.type_meta,
        "metadata": {"name": "a", "namespace": server.namespace},
        "spec": {"ports": [{"port": 80}]},
    }
    while True:
        # The quota holds once the controller manager has counted what there is.
        try:
            made = await server.cluster.create(service)
        except RefusedError as error:
            if error.reason == "QuotaExceeded":
                return
        else:
            await server.cluster.delete(server.ref("a", Kind.SERVICE), made["metadata"]["uid"])


async def test_what_is_malformed_is_refused_with_the_field(server: Server) -> None:
    secret = server.secret("Not A Name")
    with pytest.raises(RefusedError, match=r"metadata\.name") as refusal:
        await server.cluster.create(secret)
    assert refusal.value.reason == "Invalid"


async def test_what_may_not_be_done_is_refused(server: Server, control_plane: ControlPlane) -> None:
    account = control_plane.api.service_account(server.namespace, "nobody")
    async with KubernetesCluster(await connect(account)) as cluster:
        with pytest.raises(RefusedError, match="secrets") as refusal:
            await cluster.get(server.ref("a"))
    assert refusal.value.reason == "Forbidden"


async def test_a_server_that_does_not_answer_is_unavailable(
    server: Server, control_plane: ControlPlane
) -> None:
    api = await connect(control_plane.api.kubeconfig)
    async with KubernetesCluster(api, timeout_s=0.5) as cluster:
        with control_plane.frozen_api_server(), pytest.raises(UnavailableError):
            await cluster.get(server.ref("a"))
        assert await server.cluster.get(server.ref("a")) is None


async def test_a_kubeconfig_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("nothing: here\n")
    with pytest.raises(ServerNotFoundError, match=str(path)) as error:
        await connect(path)
    assert "\n" not in str(error.value)
