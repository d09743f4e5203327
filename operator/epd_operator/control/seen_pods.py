"""The pods of one cluster as its last pass found them: what a control loop needs of them, no more.

A pass follows every event of a pod, and lists the pods anyway. Listing them again for each decision
is what control would mostly cost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from epd.vocabulary import (
    CLUSTER_LABEL,
    COMPONENT_LABEL,
    DEFAULT_PORTS,
    FLIPPED_AT,
    Component,
    PortName,
)
from epd_operator.objects import (
    Key,
    Kind,
    Manifest,
    annotations_of,
    is_controlled_by,
    labels_of,
    moment_of,
)
from epd_operator.ports import Cluster
from epd_operator.worker_pods import WorkerPod

MAX_AGE_S: Final = 75.0
"""A pass looks at least every 60 s; what is older than this is listed anew."""

_PORTS: Final = {
    Component.GATEWAY: PortName.GATEWAY_HTTP,
    Component.WORKER: PortName.WORKER_METRICS,
}


@dataclass(frozen=True, slots=True)
class SeenPod:
    """One pod.

    Attributes:
        component: The program in it.
        pod: Its name, version, role and state.
        flipped_at_s: When its role was last changed, in Unix seconds; None: never.
        metrics_url: Where its metrics are; empty until it is ready and has an address.
        is_ours: The cluster owns it; gateways belong to their Deployment.
    """

    component: Component
    pod: WorkerPod
    flipped_at_s: float | None
    metrics_url: str
    is_ours: bool


class SeenPods:
    """Notes what passes find.

    Attributes:
        uid: The identity of the cluster.
        pods: The gateways and workers as they were last seen.
    """

    def __init__(
        self, cluster: Cluster, key: Key, uid: str, clock_s: Callable[[], float] = monotonic
    ) -> None:
        """Name the cluster: the key and uid of its `EPDCluster`; nothing was seen yet."""
        self._cluster = cluster
        self._key = key
        self.uid = uid
        self._clock_s = clock_s
        self._noted_s = -MAX_AGE_S
        self.pods: list[SeenPod] = []

    def note(self, pods: Sequence[Manifest]) -> None:
        """Take note of all pods of the cluster as they are now."""
        self.pods = [seen for pod in pods if (seen := self._read(pod)) is not None]
        self._noted_s = self._clock_s()

    def forget(self) -> None:
        """What was seen has changed since."""
        self._noted_s = -MAX_AGE_S

    async def now(self) -> Sequence[SeenPod]:
        """Return the gateways and workers; `ClusterCallError` if they must be listed and cannot."""
        if self._clock_s() - self._noted_s >= MAX_AGE_S:
            labels = {CLUSTER_LABEL: self._key.name}
            self.note(await self._cluster.list(Kind.POD, self._key.namespace, labels))
        return self.pods

    def _read(self, manifest: Manifest) -> SeenPod | None:
        component = labels_of(manifest).get(COMPONENT_LABEL)
        if component not in set(_PORTS):
            return None
        pod = WorkerPod.of(manifest)
        flipped = moment_of(annotations_of(manifest).get(FLIPPED_AT))
        return SeenPod(
            component=Component(component),
            pod=pod,
            flipped_at_s=flipped.timestamp() if flipped else None,
            metrics_url=_url(manifest, pod, _PORTS[Component(component)]),
            is_ours=is_controlled_by(manifest, self.uid),
        )


def _url(manifest: Mapping[str, Any], pod: WorkerPod, port: PortName) -> str:
    """Return where a pod's metrics are; the gateway's scheme is what its probe speaks."""
    if not (pod.is_ready and pod.address):
        return ""
    host = f"[{pod.address}]" if ":" in pod.address else pod.address
    containers: list[Any] = manifest["spec"].get("containers") or [{}]
    probe = (containers[0].get("readinessProbe") or {}).get("httpGet") or {}
    return f"{str(probe.get('scheme') or 'HTTP').lower()}://{host}:{DEFAULT_PORTS[port]}/metrics"
