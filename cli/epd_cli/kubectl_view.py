"""What `kubectl epd` shows, made from the objects as the API server writes them; no I/O."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from epd.vocabulary import CLUSTER_LABEL, DRAINING, ROLE_LABEL

CLUSTER_COLUMNS: Final = ("NAME", "READY", "PODS", "ROLES", "SLO", "BALANCED", "WHY", "AGE")
POD_COLUMNS: Final = ("NAME", "CLUSTER", "ROLE", "READY", "STATE", "RESTARTS", "NODE", "AGE")
_NONE: Final = "-"


def cluster_view(cluster: dict[str, Any]) -> dict[str, Any]:
    """Return what matters of an EPDCluster."""
    metadata, spec = cluster["metadata"], cluster["spec"]
    status = cluster.get("status") or {}
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "model": spec["model"]["servedName"],
        "wantedReplicas": spec["replicas"],
        "replicas": status.get("replicas", 0),
        "upToDate": status.get("observedGeneration") == metadata.get("generation"),
        "roles": status.get("roles") or [],
        "conditions": {c["type"]: c for c in status.get("conditions") or []},
        "lastDecision": status.get("lastDecision"),
        "created": metadata["creationTimestamp"],
    }


def pod_view(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what matters of a worker pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
    state = status.get("phase") or "Unknown"
    if "true" in (labels.get(DRAINING), notes.get(DRAINING)):
        state = "Draining"
    if metadata.get("deletionTimestamp"):
        state = "Terminating"
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "cluster": labels.get(CLUSTER_LABEL, ""),
        "role": labels.get(ROLE_LABEL, ""),
        "ready": conditions.get("Ready") == "True",
        "state": state,
        "restarts": sum(c["restartCount"] for c in status.get("containerStatuses") or []),
        "node": (pod.get("spec") or {}).get("nodeName", ""),
        "created": metadata["creationTimestamp"],
    }


def cluster_row(view: dict[str, Any], now: datetime) -> list[str]:
    """Return a cluster's line."""
    conditions = view["conditions"]
    ready = conditions.get("Ready") or {}
    roles = [f"{role['name']} {role['ready']}/{role['desired']}" for role in view["roles"]]
    return [
        view["name"],
        ready.get("status", "Unknown"),
        f"{view['replicas']}/{view['wantedReplicas']}",
        ", ".join(roles) or _NONE,
        _status(conditions, "SLOMet"),
        _status(conditions, "Balanced"),
        ready.get("reason", "NotSeenYet"),
        age(view["created"], now),
    ]


def pod_row(view: dict[str, Any], now: datetime) -> list[str]:
    """Return a pod's line."""
    return [
        view["name"],
        view["cluster"],
        view["role"] or _NONE,
        "yes" if view["ready"] else "no",
        view["state"],
        str(view["restarts"]),
        view["node"] or _NONE,
        age(view["created"], now),
    ]


def explanation(view: dict[str, Any], events: Sequence[dict[str, Any]], now: datetime) -> list[str]:
    """Return why a cluster's split is as it is, in lines."""
    lines = [f"{view['namespace']}/{view['name']}: {view['replicas']} pods"]
    if not view["upToDate"]:
        lines.append("The operator has not seen the latest spec yet; what follows is older.")
    lines += [f"  {r['name']}: {r['ready']} ready, {r['desired']} wanted" for r in view["roles"]]
    decision = view["lastDecision"]
    if decision is None:
        lines.append("No decision yet: the control loop is off, or has seen no metrics.")
    else:
        lines.append(f"Last decision, {age(decision['time'], now)} ago: {decision['reason']}")
        lines.append(f"  {decision['message']}")
    for condition in view["conditions"].values():
        lines.append(
            f"{condition['type']} is {condition['status']}: "
            f"{condition['reason']}: {condition['message']}"
        )
    if events:
        lines.append("What happened lately:")
        for event in events:
            when = event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
            lines.append(f"  {age(when, now)} ago, {event['reason']}: {event['message']}")
    return lines


def age(moment: str, now: datetime) -> str:
    """Return how long ago an RFC 3339 moment was, as kubectl writes it."""
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    for size, letter in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def now_utc() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def _status(conditions: dict[str, Any], kind: str) -> str:
    return str((conditions.get(kind) or {}).get("status", _NONE))
