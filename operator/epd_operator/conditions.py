"""Judges a cluster: what is reported in `status`, from the world as it was found. Pure.

`Ready`, `Reconciling` and `Stalled` are judged here at every pass. `SLOMet`, `Balanced` and
`MetricsAvailable` belong to the control loop; they are `Unknown` until it has spoken, and kept as
it wrote them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, unique
from typing import Any, Final

from epd.api.names import ControlMode, RoleName
from epd.vocabulary import Component, Role
from epd_operator.actions import Note
from epd_operator.objects import Manifest, timestamp
from epd_operator.split import Split
from epd_operator.wanted import Wanted, selector
from epd_operator.worker_pods import WorkerPod

MAX_NAMED: Final = 3
"""Pods that a message names; the rest is counted."""


@unique
class ConditionType(StrEnum):
    """The conditions of an `EPDCluster`."""

    READY = "Ready"
    SLO_MET = "SLOMet"
    BALANCED = "Balanced"
    METRICS_AVAILABLE = "MetricsAvailable"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


OF_THE_CONTROL_LOOP: Final = (
    ConditionType.SLO_MET,
    ConditionType.BALANCED,
    ConditionType.METRICS_AVAILABLE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one condition says; `holds` None is Unknown."""

    type: ConditionType
    holds: bool | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a pass found and did.

    Attributes:
        pods: The cluster's worker pods.
        gateways: How many gateways can serve.
        split: Pods that each role should have.
        revision: The digest that up-to-date pods have.
        troubles: What stands in the way.
        is_changing: The pass wrote something, or waits for something to end.
    """

    pods: Sequence[WorkerPod] = ()
    gateways: int = 0
    split: Split = field(default_factory=dict)
    revision: str = ""
    troubles: Sequence[Note] = ()
    is_changing: bool = False

    @property
    def serving(self) -> list[WorkerPod]:
        """The pods that take work."""
        return [
            pod
            for pod in self.pods
            if pod.is_ready and not pod.is_draining and not pod.is_terminating and not pod.is_ended
        ]

    @property
    def ailing(self) -> list[WorkerPod]:
        """The pods that do not serve, with the reason known."""
        return [
            pod for pod in self.pods if pod.trouble and not pod.is_ready and not pod.is_terminating
        ]


def status_of(wanted: Wanted, found: Found, before: Mapping[str, Any], now: datetime) -> Manifest:
    """Return the status of a valid cluster, given the one that stands there."""
    verdicts = [_ready(wanted, found), _reconciling(wanted, found), _stalled(found)]
    kept = {each["type"]: each for each in before.get("conditions") or ()}
    verdicts += [_unmeasured(wanted, kind) for kind in OF_THE_CONTROL_LOOP if kind not in kept]
    ready = Counter(pod.role for pod in found.serving)
    roles = [role for role in Role if found.split.get(role) is not None or ready[role]]
    return {
        "observedGeneration": wanted.generation,
        "replicas": sum(not pod.is_terminating and not pod.is_ended for pod in found.pods),
        "selector": ",".join(
            f"{name}={value}" for name, value in selector(wanted.key.name, Component.WORKER).items()
        ),
        "roles": [
            {
                "name": RoleName.of(role).value,
                "desired": found.split.get(role, 0),
                "ready": ready[role],
            }
            for role in roles
        ],
        "conditions": merged(verdicts, kept, wanted.generation, now),
    }


def status_of_invalid(
    message: str, generation: int, before: Mapping[str, Any], now: datetime
) -> Manifest:
    """Return the status of a cluster whose spec cannot be used; its pods are left as they are."""
    kept = {each["type"]: each for each in before.get("conditions") or ()}
    verdicts = [
        Verdict(ConditionType.STALLED, True, "InvalidSpec", message),
        Verdict(ConditionType.RECONCILING, False, "InvalidSpec", "nothing is changed"),
    ]
    if ConditionType.READY not in kept:
        verdicts.append(Verdict(ConditionType.READY, False, "InvalidSpec", message))
    return {
        "observedGeneration": generation,
        "conditions": merged(verdicts, kept, generation, now),
    }


def differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether a status says something new."""
    return any(before.get(name) != value for name, value in after.items())


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Note]:
    """Yield what users should read about: conditions that changed."""
    old = {each["type"]: each for each in before.get("conditions") or ()}
    for condition in after["conditions"]:
        was = old.get(condition["type"], {})
        if was.get("status") == condition["status"] and was.get("reason") == condition["reason"]:
            continue
        match condition["type"], condition["status"]:
            case ConditionType.READY, "True":
                yield Note("Ready", condition["message"])
            case ConditionType.READY, "False" if was.get("status") == "True":
                yield Note("NotReady", condition["message"], is_warning=True)
            case ConditionType.STALLED, "True":
                yield Note(condition["reason"], condition["message"], is_warning=True)


def _ready(wanted: Wanted, found: Found) -> Verdict:
    serving, pods = len(found.serving), wanted.spec.replicas
    gateways = wanted.spec.gateway.replicas
    if serving < pods:
        why = "; ".join(f"{pod.name}: {pod.trouble.reason}" for pod in _named(found) if pod.trouble)
        message = f"{serving} of {pods} pods serve{': ' if why else ''}{why}"
        return Verdict(ConditionType.READY, False, "PodsNotReady", message)
    if found.gateways < gateways:
        message = f"{found.gateways} of {gateways} gateways serve"
        return Verdict(ConditionType.READY, False, "GatewaysNotReady", message)
    message = f"{serving} pods and {found.gateways} gateways serve"
    return Verdict(ConditionType.READY, True, "Serving", message)


def _reconciling(wanted: Wanted, found: Found) -> Verdict:
    present = [pod for pod in found.pods if not pod.is_terminating]
    outdated = [pod for pod in present if pod.revision != found.revision]
    leaving = [pod for pod in present if pod.is_draining]
    if outdated:
        message = f"{len(outdated)} pods of an older revision are to be replaced"
        return Verdict(ConditionType.RECONCILING, True, "Upgrading", message)
    if leaving or len(present) > wanted.spec.replicas:
        message = f"{len(leaving)} pods are drained"
        return Verdict(ConditionType.RECONCILING, True, "ScalingDown", message)
    if len(found.serving) < wanted.spec.replicas:
        message = f"{wanted.spec.replicas - len(found.serving)} pods do not serve yet"
        return Verdict(ConditionType.RECONCILING, True, "PodsStarting", message)
    if found.gateways < wanted.spec.gateway.replicas or found.is_changing:
        return Verdict(
            ConditionType.RECONCILING, True, "Applying", "objects are brought up to date"
        )
    return Verdict(ConditionType.RECONCILING, False, "Settled", "all is as the spec asks")


def _stalled(found: Found) -> Verdict:
    if found.troubles:
        first = found.troubles[0]
        return Verdict(ConditionType.STALLED, True, first.reason, first.message)
    for pod in found.ailing:
        if pod.trouble:
            message = f"{pod.name}: {pod.trouble.message or pod.trouble.reason}"
            reason = "".join(c for c in pod.trouble.reason if c.isalnum()) or "PodTrouble"
            return Verdict(ConditionType.STALLED, True, reason, message[:1024])
    return Verdict(ConditionType.STALLED, False, "Progressing", "nothing stands in the way")


def _unmeasured(wanted: Wanted, kind: ConditionType) -> Verdict:
    if wanted.spec.control.mode is ControlMode.OFF:
        return Verdict(kind, None, "ControlOff", "spec.control.mode is Off")
    return Verdict(kind, None, "NotMeasured", "the control loop has not reported yet")


def _named(found: Found) -> list[WorkerPod]:
    return found.ailing[:MAX_NAMED]


def merged(
    verdicts: Sequence[Verdict], kept: Mapping[str, Manifest], generation: int, now: datetime
) -> list[Manifest]:
    """Return all conditions in the order of `ConditionType`; those not judged stay as they are."""
    judged = {verdict.type: verdict for verdict in verdicts}
    result: list[Manifest] = []
    for kind in ConditionType:
        was = kept.get(kind)
        verdict = judged.get(kind)
        if verdict is None:
            result += [dict(was)] if was else []
            continue
        status = {True: "True", False: "False", None: "Unknown"}[verdict.holds]
        same = was is not None and was["status"] == status
        changed_at = was["lastTransitionTime"] if was and same else timestamp(now)
        result.append(
            {
                "type": kind.value,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": changed_at,
                "reason": verdict.reason,
                "message": verdict.message,
            }
        )
    return result
