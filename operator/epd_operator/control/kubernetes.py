"""The control loop's ports on Kubernetes: pods and their labels, and metrics straight from pods."""

import ssl
from collections.abc import Sequence
from typing import Final

import aiohttp

from epd.policy.control_view import Flip
from epd.vocabulary import ASSIGNED_ROLE, FLIPPED_AT, Component
from epd_operator.control.ports import FleetPod, FlipRefused, MetricsUnavailable
from epd_operator.control.scrape import ScrapedMetrics
from epd_operator.control.seen_pods import SeenPods
from epd_operator.control.signals import Traffic
from epd_operator.manifests_worker import role_labels
from epd_operator.objects import Key, Kind, Ref, precise_timestamp
from epd_operator.ports import Clock, Cluster, ClusterCallError, ConflictError, GoneError

SETTLE_S: Final = 2.0
"""A gateway that follows its watch has seen a label after milliseconds; after so long, all have."""

_SCRAPE_TIMEOUT: Final = aiohttp.ClientTimeout(sock_connect=2.0, sock_read=2.0)


class PodFleet:
    """The worker pods of one cluster. See `Fleet` of the loop's ports."""

    def __init__(self, cluster: Cluster, key: Key, seen: SeenPods, clock: Clock) -> None:
        """Name the cluster, and how its pods are known."""
        self._cluster = cluster
        self._key = key
        self._seen = seen
        self._clock = clock
        self._versions: dict[str, str] = {}

    async def pods(self) -> Sequence[FleetPod]:
        """Return the pods that have a role and are not about to go."""
        now_s = self._clock.now().timestamp()
        pods = []
        self._versions = {}
        for seen in await self._seen.now():
            pod, flipped_s = seen.pod, seen.flipped_at_s
            if not seen.is_ours or seen.component is not Component.WORKER:
                continue
            if pod.role is None or pod.is_terminating or pod.is_draining or pod.is_ended:
                continue
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
        self._seen.forget()
        try:
            await self._cluster.patch(Ref(Kind.POD, self._key.namespace, flip.pod), body)
        except (GoneError, ConflictError):
            raise FlipRefused("it has changed meanwhile; the next pass looks again") from None
        except ClusterCallError as error:
            raise FlipRefused(str(error)) from None


class PodMetrics:
    """Scrapes the gateways' and workers' pods, where no Prometheus is configured."""

    def __init__(self, seen: SeenPods, window_s: float, session: aiohttp.ClientSession) -> None:
        """Name the pods, and what to ask them with."""
        self._seen = seen
        self._session = session
        self._gateways: list[str] = []
        self._workers: dict[str, str] = {}
        self._scraped = ScrapedMetrics(
            lambda: self._gateways, lambda: self._workers, window_s, fetch=self._fetch
        )

    async def read(self) -> Traffic:
        """Return the traffic of the last seconds. See `Metrics` of the loop's ports."""
        try:
            pods = await self._seen.now()
        except ClusterCallError as error:
            raise MetricsUnavailable(str(error)) from None
        self._gateways, self._workers = [], {}
        for seen in pods:
            if not seen.metrics_url:
                continue
            if seen.component is Component.GATEWAY:
                self._gateways.append(seen.metrics_url)
            else:
                self._workers[seen.pod.name] = seen.metrics_url
        if not self._gateways:
            raise MetricsUnavailable("no gateway is ready")
        return await self._scraped.read()

    async def _fetch(self, url: str) -> str:
        try:
            async with self._session.get(url, timeout=_SCRAPE_TIMEOUT, ssl=_UNVERIFIED) as answer:
                answer.raise_for_status()
                return await answer.text()
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from None


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
