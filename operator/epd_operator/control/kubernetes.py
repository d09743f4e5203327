"""The control loop's ports on Kubernetes: pods and their labels, and metrics straight from pods."""

import ssl
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

from epd.policy.control_view import Flip
from epd.vocabulary import (
    ASSIGNED_ROLE,
    CLUSTER_LABEL,
    COMPONENT_LABEL,
    DEFAULT_PORTS,
    FLIPPED_AT,
    Component,
    PortName,
)
from epd_operator.control.ports import FleetPod, FlipRefused, MetricsUnavailable
from epd_operator.control.scrape import ScrapedMetrics
from epd_operator.control.signals import Traffic
from epd_operator.manifests_worker import role_labels
from epd_operator.objects import (
    Key,
    Kind,
    Manifest,
    Ref,
    annotations_of,
    is_controlled_by,
    labels_of,
    moment_of,
    precise_timestamp,
)
from epd_operator.ports import Clock, Cluster, ClusterCallError, ConflictError, GoneError
from epd_operator.worker_pods import WorkerPod

SETTLE_S: Final = 2.0
"""A gateway that follows its watch has seen a label after milliseconds; after so long, all have."""

_SCRAPE_TIMEOUT_S: Final = 2.0


class PodFleet:
    """The worker pods of one cluster. See `Fleet` of the loop's ports."""

    def __init__(self, cluster: Cluster, key: Key, uid: str, clock: Clock) -> None:
        """Name the cluster: the key and uid of its `EPDCluster`."""
        self._cluster = cluster
        self._key = key
        self._uid = uid
        self._clock = clock
        self._versions: dict[str, str] = {}

    async def pods(self) -> Sequence[FleetPod]:
        """Return the pods that have a role and are not about to go."""
        labels = {CLUSTER_LABEL: self._key.name, COMPONENT_LABEL: Component.WORKER.value}
        found = await self._cluster.list(Kind.POD, self._key.namespace, labels)
        now_s = self._clock.now().timestamp()
        pods = []
        self._versions = {}
        for manifest in found:
            if not is_controlled_by(manifest, self._uid):
                continue
            pod = WorkerPod.of(manifest)
            if pod.role is None or pod.is_terminating or pod.is_draining or pod.is_ended:
                continue
            flipped = moment_of(annotations_of(manifest).get(FLIPPED_AT))
            flipped_s = flipped.timestamp() if flipped else None
            settled = flipped_s is None or now_s - flipped_s >= SETTLE_S
            self._versions[pod.name] = pod.version
            pods.append(FleetPod(pod.name, pod.role, pod.is_ready, settled, flipped_s))
        return pods

    async def flip(self, flip: Flip) -> None:
        """Patch the labels, if nothing about the pod has changed since it was seen."""
        body = {
            "metadata": {
                "resourceVersion": self._versions[flip.pod],
                "labels": role_labels(flip.to_role),
                "annotations": {
                    ASSIGNED_ROLE: flip.to_role.value,
                    FLIPPED_AT: precise_timestamp(self._clock.now()),
                },
            }
        }
        try:
            await self._cluster.patch(Ref(Kind.POD, self._key.namespace, flip.pod), body)
        except (GoneError, ConflictError):
            raise FlipRefused("it has changed meanwhile; the next pass looks again") from None
        except ClusterCallError as error:
            raise FlipRefused(str(error)) from None


class PodMetrics:
    """Scrapes the gateways' and workers' pods, where no Prometheus is configured."""

    def __init__(self, cluster: Cluster, key: Key, window_s: float) -> None:
        """Name the cluster."""
        self._cluster = cluster
        self._key = key
        self._gateways: list[str] = []
        self._workers: dict[str, str] = {}
        self._scraped = ScrapedMetrics(
            lambda: self._gateways, lambda: self._workers, window_s, fetch=_fetch
        )

    async def read(self) -> Traffic:
        """Return the traffic of the last seconds. See `Metrics` of the loop's ports."""
        try:
            pods = await self._cluster.list(
                Kind.POD, self._key.namespace, {CLUSTER_LABEL: self._key.name}
            )
        except ClusterCallError as error:
            raise MetricsUnavailable(str(error)) from None
        serving = [pod for pod in pods if _is_ready(pod) and pod["status"].get("podIP")]
        self._gateways, self._workers = [], {}
        for pod in serving:
            match labels_of(pod).get(COMPONENT_LABEL):
                case Component.GATEWAY:
                    self._gateways.append(_url(pod, PortName.GATEWAY_HTTP))
                case Component.WORKER:
                    self._workers[pod["metadata"]["name"]] = _url(pod, PortName.WORKER_METRICS)
        if not self._gateways:
            raise MetricsUnavailable("no gateway is ready")
        return await self._scraped.read()


def _is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _url(pod: Manifest, port: PortName) -> str:
    """Return where a pod's metrics are; the gateway's scheme is what its probe speaks."""
    address = pod["status"]["podIP"]
    host = f"[{address}]" if ":" in address else address
    return f"{_scheme(pod)}://{host}:{DEFAULT_PORTS[port]}/metrics"


def _scheme(pod: Manifest) -> str:
    containers: list[Any] = pod["spec"].get("containers") or [{}]
    probe = containers[0].get("readinessProbe") or {}
    return str((probe.get("httpGet") or {}).get("scheme") or "HTTP").lower()


def _fetch(url: str) -> str:
    with urllib.request.urlopen(  # noqa: S310 - an address that the API server gave
        url, timeout=_SCRAPE_TIMEOUT_S, context=_UNVERIFIED if url.startswith("https:") else None
    ) as answer:
        return bytes(answer.read()).decode()


def _unverified() -> ssl.SSLContext:
    """Return TLS that asks for no proof, as kubelet's probes do.

    A gateway's public certificate is the user's, by an authority that we do not know, and names its
    Service, never a pod's address. What is read are counters, and workers tell theirs in the clear.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_UNVERIFIED: Final = _unverified()
