"""Reads worker pods: what a plan needs to know of each, and what ails it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from epd.vocabulary import (
    ASSIGNED_ROLE,
    DRAIN_REASON,
    DRAIN_STARTED,
    DRAINING,
    LLM_D_ROLE_LABEL,
    REVISION_LABEL,
    ROLE_LABEL,
    Role,
)
from epd_operator.objects import Kind, Manifest, Ref, annotations_of, labels_of, moment_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# What a container waits for says why it does not run. Those that mend themselves are left out.
_TROUBLES: Final = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not serve, in Kubernetes' own word and sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """One worker pod as the API server has it.

    Attributes:
        ref: Which object.
        uid: Its identity.
        version: Its resourceVersion.
        role: Its role label; None where that is missing or no role.
        llm_d_role: The text of llm-d's label.
        assigned: The role the operator gave it last.
        revision: Digest of the template it was made from.
        created: When it was made.
        address: Its IP; empty until it has one.
        is_ready: It serves.
        is_ended: Its containers have ended for good (evicted, refused by the node).
        is_terminating: It was deleted and is on its way out.
        is_draining: It gets no new work.
        draining_since: Since when, as far as that was written down.
        drain_reason: Why, where the operator began it.
        trouble: Why it does not serve, where Kubernetes says so.
    """

    ref: Ref
    uid: str
    version: str
    role: Role | None
    llm_d_role: str
    assigned: Role | None
    revision: str
    created: datetime
    address: str = ""
    is_ready: bool = False
    is_ended: bool = False
    is_terminating: bool = False
    is_draining: bool = False
    draining_since: datetime | None = None
    drain_reason: str = ""
    trouble: Trouble | None = None

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.ref.name

    @property
    def is_flipped(self) -> bool:
        """Somebody else than the operator changed its role."""
        return self.role is not None and self.assigned not in (None, self.role)

    @classmethod
    def of(cls, pod: Manifest) -> "WorkerPod":
        """Read a pod."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        labels, notes = labels_of(pod), annotations_of(pod)
        created = moment_of(metadata.get("creationTimestamp")) or _EPOCH
        phase = status.get("phase")
        return cls(
            ref=Ref(Kind.POD, metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            role=_role(labels.get(ROLE_LABEL)),
            llm_d_role=labels.get(LLM_D_ROLE_LABEL, ""),
            assigned=_role(notes.get(ASSIGNED_ROLE)),
            revision=labels.get(REVISION_LABEL, ""),
            created=created,
            address=status.get("podIP") or "",
            is_ready=_condition(status, "Ready").get("status") == "True",
            is_ended=phase in ("Failed", "Succeeded"),
            is_terminating=metadata.get("deletionTimestamp") is not None,
            is_draining="true" in (labels.get(DRAINING), notes.get(DRAINING)),
            draining_since=moment_of(notes.get(DRAIN_STARTED)),
            drain_reason=notes.get(DRAIN_REASON, ""),
            trouble=_trouble(status),
        )


def _role(text: str | None) -> Role | None:
    return Role(text) if text in set(Role) else None


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind:
            return dict(condition)
    return {}


def _trouble(status: Mapping[str, Any]) -> Trouble | None:
    if status.get("phase") in ("Failed", "Succeeded"):
        return Trouble(status.get("reason") or "PodEnded", status.get("message") or "it has ended")
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        reason = scheduled.get("reason") or "Unschedulable"
        return Trouble(reason, scheduled.get("message") or "no node takes it")
    containers = status.get("containerStatuses") or ()
    for container in (*(status.get("initContainerStatuses") or ()), *containers):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _TROUBLES:
            last = (container.get("lastState") or {}).get("terminated") or {}
            status_text = f"it ended with status {last['exitCode']}" if "exitCode" in last else ""
            return Trouble(waiting["reason"], waiting.get("message") or status_text)
    return None
