"""The roster of a cluster on Kubernetes: its worker pods, by label.

A pod is in the roster from its address on until it is deleted. New work goes to those only that are
Ready, not being deleted, and not marked as draining; the others finish what they have. The
version of a roster is the resourceVersion it stands for, so whoever patched a label knows from the
answer which version to wait for.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from epd.vocabulary import (
    CLUSTER_LABEL,
    COMPONENT_LABEL,
    DEFAULT_PORTS,
    DRAINING,
    FLIPPED_AT,
    ROLE_LABEL,
    Component,
    PortName,
    Role,
)
from epd_gateway.kubernetes_access import ApiAccess
from epd_gateway.pod_watch import Change, Pod, PodList, PodWatch
from epd_gateway.roster_feed import RosterEntry, RosterSnapshot
from epd_gateway.settings import KubernetesWatch

logger = logging.getLogger(__name__)

_ENDED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class KnownPod:
    """What is kept of a pod.

    Attributes:
        uid: Which pod of this name it is.
        version: Its resourceVersion; 0 if that is no number.
        entry: Its line of the roster; None while it has none.
    """

    uid: str
    version: int
    entry: RosterEntry | None


class PodBook:
    """The pods of a cluster as last heard; no I/O."""

    def __init__(self, cluster: str) -> None:
        """Start with no pods."""
        self._cluster = cluster
        self._pods: dict[str, KnownPod] = {}
        self._version = 0

    def replace(self, pods: Iterable[Pod], version: str) -> None:
        """Take a whole list for the truth."""
        before, self._pods = self._pods, {}
        for pod in pods:
            known = _known(pod, before.get(pod["metadata"]["name"]))
            self._pods[pod["metadata"]["name"]] = known
        self._advance(version)

    def take(self, events: Iterable[tuple[Change, Pod]], version: str) -> None:
        """Follow some events; those that tell old news change nothing."""
        for change, pod in events:
            name = pod["metadata"]["name"]
            before = self._pods.get(name)
            known = _known(pod, before)
            same = before is not None and before.uid == known.uid
            if change is Change.DELETED:
                if same:
                    del self._pods[name]
            elif not same or before is None or known.version >= before.version:
                self._pods[name] = known
        self._advance(version)

    def snapshot(self) -> RosterSnapshot:
        """Return the roster as it stands."""
        entries = (self._pods[name].entry for name in sorted(self._pods))
        return RosterSnapshot(
            version=self._version,
            cluster=self._cluster,
            workers=tuple(entry for entry in entries if entry is not None),
        )

    def _advance(self, version: str) -> None:
        self._version = _number(version) or self._version + 1


class KubernetesRoster:
    """Follows the worker pods of one cluster; a `RosterSource`."""

    def __init__(
        self, access: ApiAccess, cluster: str, namespace: str, settings: KubernetesWatch
    ) -> None:
        """Name the cluster.

        Args:
            access: The way to the API server.
            cluster: Name of the `EPDCluster`.
            namespace: Where it is; empty: the namespace of the credentials.
            settings: Times.
        """
        self._book = PodBook(cluster)
        selector = f"{CLUSTER_LABEL}={cluster},{COMPONENT_LABEL}={Component.WORKER}"
        self._watch = PodWatch(access, namespace, selector, settings)

    @property
    def is_current(self) -> bool:
        """The pods are being followed."""
        return self._watch.is_following

    async def snapshots(self) -> AsyncIterator[RosterSnapshot]:
        """Yield the present roster as soon as there is one, then each new one; never end."""
        async for change in self._watch.changes():
            if isinstance(change, PodList):
                self._book.replace(change.pods, change.version)
            else:
                self._book.take(change.events, change.version)
            yield self._book.snapshot()


def _known(pod: Pod, before: KnownPod | None) -> KnownPod:
    metadata = pod["metadata"]
    if before is not None and before.uid != metadata["uid"]:
        before = None
    entry = entry_of(pod, before.entry.role if before and before.entry else None)
    return KnownPod(metadata["uid"], _number(metadata["resourceVersion"]), entry)


def entry_of(pod: Pod, last_role: Role | None = None) -> RosterEntry | None:
    """Return a pod's line of the roster; None while it has no address or role, or has ended.

    Args:
        pod: As the API server writes it.
        last_role: The role it had; a label that makes no sense leaves it at that.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP")
    role = _role(pod, last_role)
    if not address or role is None or status.get("phase") in _ENDED:
        return None
    host = f"[{address}]" if ":" in address else address
    try:
        return RosterEntry(
            name=metadata["name"],
            address=f"{host}:{_grpc_port(pod)}",
            role=role,
            takes_new_work=takes_new_work(pod),
            flipped_s=_flipped_s(metadata.get("annotations") or {}),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        logger.warning("pod %s: %s: %s", metadata["name"], first["loc"], first["msg"])
        return None


def takes_new_work(pod: Pod) -> bool:
    """Return whether a pod is Ready, not being deleted and not marked as draining."""
    metadata = pod["metadata"]
    marks = (metadata.get("annotations") or {}, metadata.get("labels") or {})
    if metadata.get("deletionTimestamp") or any(mark.get(DRAINING) == "true" for mark in marks):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in conditions
    )


def _role(pod: Pod, last_role: Role | None) -> Role | None:
    label = (pod["metadata"].get("labels") or {}).get(ROLE_LABEL, "")
    try:
        return Role.parse(label)
    except ValueError as error:
        stays = f"it stays {last_role}" if last_role else "nothing is placed on it"
        logger.warning("pod %s: %s: %s; %s", pod["metadata"]["name"], ROLE_LABEL, error, stays)
        return last_role


def _flipped_s(annotations: Mapping[str, str]) -> float | None:
    """Return when the control loop wrote the role; None where it did not, or not legibly."""
    try:
        return datetime.fromisoformat(annotations[FLIPPED_AT]).timestamp()
    except (KeyError, ValueError):
        return None


def _grpc_port(pod: Pod) -> int:
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == PortName.WORKER_GRPC:
                return int(port["containerPort"])
    return DEFAULT_PORTS[PortName.WORKER_GRPC]


def _number(version: Any) -> int:
    return int(version) if str(version).isdecimal() else 0
