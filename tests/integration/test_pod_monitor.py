"""A real Prometheus finds a gateway by the API server and scrapes it as the PodMonitor says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from charts import OPERATOR, manifests
from kube.binaries import UnavailableError, find
from kube.control_plane import ControlPlane
from monitoring.live.prometheus import PrometheusServer
from operator_world import IMAGES, manifest
from pod_cluster import PodCluster, pod_cluster
from pod_monitor import scrape_jobs
from running_operator import until

from epd.api.load import validate_cluster
from epd.vocabulary import Role
from epd_operator.manifests_gateway import gateway_objects
from epd_operator.wanted import Wanted

CERTIFICATES = Path(__file__).parents[1] / "support" / "certificates"


@pytest.fixture
def cluster(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> Iterator[PodCluster]:
    with pod_cluster(tmp_path, control_plane.api, namespace) as cluster:
        yield cluster


def monitor_of_clusters() -> dict[str, Any]:
    """Return the chart's PodMonitor of workers and gateways."""
    values = {"metrics": {"podMonitor": {"enabled": True}}}
    return next(
        each
        for each in manifests(OPERATOR, values)
        if each["kind"] == "PodMonitor" and each["metadata"]["name"] == "epd-clusters"
    )


def gateway_pod(namespace: str, port: int) -> dict[str, Any]:
    """Return a pod of a gateway with a certificate, as the operator's Deployment has it."""
    asked = manifest(gateway={"tlsSecretName": "public"})
    asked["metadata"] |= {"namespace": namespace, "uid": "u"}
    objects = gateway_objects(Wanted.of(validate_cluster(asked), IMAGES))
    (template,) = (each["spec"]["template"] for each in objects if each["kind"] == "Deployment")
    (stated,) = template["spec"]["containers"][0]["ports"]
    container = {"name": "gateway", "image": "g", "ports": [{**stated, "containerPort": port}]}
    return {
        "metadata": {"name": "gateway", "labels": template["metadata"]["labels"]},
        "spec": {"containers": [container]},
    }


def found(server: PrometheusServer, query: str) -> list[dict[str, str]]:
    return [each["metric"] for each in server.ask("query", query=query)["result"]]


async def test_a_gateway_with_a_certificate_is_found_and_scraped_as_the_monitor_says(
    cluster: PodCluster, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    try:
        find("prometheus")  # Debian's knows nothing of Kubernetes
    except UnavailableError as error:
        pytest.skip(str(error))
    tls = {"tls_certificate": "gateway.pem", "tls_key": "gateway.key"}
    settings = [f"listen.{name}={CERTIFICATES / file}" for name, file in tls.items()]
    cluster.start_worker("a")
    await cluster.join("a", Role.ENCODE_PREFILL_DECODE)
    await cluster.start_gateway(*settings)
    port = int(cluster.url.rpartition(":")[2])
    pods = f"/api/v1/namespaces/{namespace}/pods"
    control_plane.api.call("POST", pods, gateway_pod(namespace, port))
    cluster.set_ready("gateway", True)
    jobs = scrape_jobs(monitor_of_clusters(), namespace, control_plane.api.kubeconfig)
    labels = f'namespace="{namespace}", epd_dev_cluster="demo", pod="gateway"'
    with PrometheusServer(tmp_path / "prometheus", jobs=jobs) as server:
        # By these labels the control loop and the boards know a cluster.
        query = f'epd_slo_limit_seconds{{{labels}, objective="ttft"}}'
        await until(lambda: found(server, query), lambda: str(found(server, "up")))
        (up,) = found(server, f"up{{{labels}}} == 1")
    assert up["app_kubernetes_io_component"] == "gateway"
    assert up["instance"] == f"127.0.0.1:{port}"
