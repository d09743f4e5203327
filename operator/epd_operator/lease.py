"""Which of several operators works: the one that holds a Lease and keeps renewing it.

As in client-go, another's claim counts from the moment we saw it change, by our own clock: clocks
of machines differ. Whoever leads stops writing before anybody else may begin: `is_leading` is false
`DURATION_S - RENEW_DEADLINE_S` before the Lease can be taken.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from epd_operator.objects import Kind, Manifest, Ref
from epd_operator.ports import Cluster, ClusterCallError

log = logging.getLogger(__name__)

LEASE_NAME: Final = "epd-operator"
DURATION_S: Final = 15
RENEW_DEADLINE_S: Final = 10.0
RETRY_S: Final = 2.0


class Lease:
    """Our part in the election."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        identity: str,
        clock_s: Callable[[], float] = monotonic,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Take part as `identity`, which no other operator may have; nothing is claimed yet.

        `tell` is called whenever we try.
        """
        self._tell = tell
        self._cluster = cluster
        self._ref = Ref(Kind.LEASE, namespace, LEASE_NAME)
        self._identity = identity
        self._clock_s = clock_s
        self._renewed_s: float | None = None
        self._seen: tuple[str, str] = ("", "")
        self._seen_s = clock_s()

    @property
    def is_leading(self) -> bool:
        """Nobody else works, and nobody may for some seconds yet."""
        return self._renewed_s is not None and self._clock_s() - self._renewed_s < RENEW_DEADLINE_S

    async def campaign(self) -> None:
        """Return once we lead."""
        while not await self.try_once():  # noqa: ASYNC110 - others hold it, and tell nobody
            await asyncio.sleep(RETRY_S)
        log.info("%s leads", self._identity)

    async def keep(self) -> None:
        """Renew the Lease; return once we do not lead any more."""
        while self.is_leading:
            await asyncio.sleep(RETRY_S)
            await self.try_once()
        log.warning("%s leads no more", self._identity)

    async def release(self) -> None:
        """Let another lead at once."""
        if not self.is_leading:
            return
        self._renewed_s = None
        try:
            lease = await self._cluster.get(self._ref)
            if lease is not None and _spec(lease).get("holderIdentity") == self._identity:
                await self._write(lease, holder="", transitions=_transitions(lease))
        except ClusterCallError as error:
            log.info("the lease is left to expire: %s", error)

    async def try_once(self) -> bool:
        """Claim or renew the Lease if that is ours to do; tell whether we lead."""
        started_s = self._clock_s()
        self._tell()
        try:
            lease = await self._cluster.get(self._ref)
            if lease is None:
                await self._cluster.create(self._manifest(None, self._identity, 0))
            elif self._may_take(lease):
                mine = _spec(lease).get("holderIdentity") == self._identity
                transitions = _transitions(lease) + (not mine)
                await self._write(lease, holder=self._identity, transitions=transitions)
            else:
                self._renewed_s = None
                return False
        except ClusterCallError as error:
            log.info("the lease is not renewed: %s", error)
            return self.is_leading
        self._renewed_s = started_s
        return True

    def _may_take(self, lease: Manifest) -> bool:
        spec = _spec(lease)
        holder = spec.get("holderIdentity") or ""
        claim = (holder, str(spec.get("renewTime")))
        if claim != self._seen:
            self._seen, self._seen_s = claim, self._clock_s()
        expires_s = self._seen_s + float(spec.get("leaseDurationSeconds") or DURATION_S)
        return holder in ("", self._identity) or self._clock_s() >= expires_s

    async def _write(self, lease: Manifest, *, holder: str, transitions: int) -> None:
        version = lease["metadata"]["resourceVersion"]
        body = self._manifest(version, holder, transitions)
        await self._cluster.patch(self._ref, body)

    def _manifest(self, version: str | None, holder: str, transitions: int) -> Manifest:
        metadata = {"name": self._ref.name, "namespace": self._ref.namespace}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            **Kind.LEASE.type_meta,
            "metadata": {**metadata, **({"resourceVersion": version} if version else {})},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": DURATION_S,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def _spec(lease: Manifest) -> Mapping[str, Any]:
    return lease.get("spec") or {}


def _transitions(lease: Manifest) -> int:
    return int(_spec(lease).get("leaseTransitions") or 0)
