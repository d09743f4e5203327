"""Kubernetes objects as plain data: which kinds we touch, how they are named and read.

A manifest is the JSON of an object. Builders return manifests, the cluster answers with them, and
nothing else of Kubernetes' object model is needed here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, unique
from typing import Any, Final

from epd.vocabulary import API_VERSION, KIND, PLURAL

Manifest = dict[str, Any]

MANAGER: Final = "epd-operator"
"""Who we are as a field manager, as an event source, and in the managed-by label."""


@unique
class Kind(Enum):
    """The kinds of objects that the operator reads or writes: API version and path segment."""

    EPD_CLUSTER = (KIND, API_VERSION, PLURAL)
    POD = ("Pod", "v1", "pods")
    SERVICE = ("Service", "v1", "services")
    SERVICE_ACCOUNT = ("ServiceAccount", "v1", "serviceaccounts")
    SECRET = ("Secret", "v1", "secrets")
    CONFIG_MAP = ("ConfigMap", "v1", "configmaps")
    EVENT = ("Event", "v1", "events")
    DEPLOYMENT = ("Deployment", "apps/v1", "deployments")
    ROLE = ("Role", "rbac.authorization.k8s.io/v1", "roles")
    ROLE_BINDING = ("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings")
    DISRUPTION_BUDGET = ("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
    NETWORK_POLICY = ("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
    LEASE = ("Lease", "coordination.k8s.io/v1", "leases")

    def __init__(self, kind: str, api_version: str, plural: str) -> None:
        self.kind = kind
        self.api_version = api_version
        self.plural = plural

    @property
    def type_meta(self) -> Manifest:
        """The first two fields of a manifest of this kind."""
        return {"apiVersion": self.api_version, "kind": self.kind}

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Kind":
        """Return the kind of a manifest; KeyError if it is none of ours."""
        return _KIND_OF[(manifest["kind"], manifest["apiVersion"])]


_KIND_OF: Final = {(kind.kind, kind.api_version): kind for kind in Kind}


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which `EPDCluster`: its namespace and its name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Ref:
    """Which object: its kind, its namespace and its name."""

    kind: Kind
    namespace: str
    name: str

    @classmethod
    def to(cls, manifest: Mapping[str, Any]) -> "Ref":
        """Return the reference to the object that a manifest describes."""
        metadata = manifest["metadata"]
        return cls(Kind.of(manifest), metadata["namespace"], metadata["name"])

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


def labels_of(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of an object; none where it has none."""
    return manifest["metadata"].get("labels") or {}


def annotations_of(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the annotations of an object; none where it has none."""
    return manifest["metadata"].get("annotations") or {}


def is_controlled_by(manifest: Mapping[str, Any], uid: str) -> bool:
    """Tell whether the object with this uid is the controlling owner."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner["uid"] == uid for owner in owners)


def digest(value: object, length: int = 10) -> str:
    """Return a short name for a value: equal values have equal digests, in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def timestamp(moment: datetime) -> str:
    """Write a moment as Kubernetes does (RFC 3339, whole seconds, UTC)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise_timestamp(moment: datetime) -> str:
    """Write a moment to the microsecond (Kubernetes' MicroTime)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment_of(text: str | None) -> datetime | None:
    """Read a moment that Kubernetes wrote; None for none, or for what is no moment."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def covers(present: object, wanted: object) -> bool:
    """Tell whether `present` says everything that `wanted` says.

    The API server adds fields of its own (defaults, status); those are passed over. Lists must
    agree in length and order: where we write one, we own it.
    """
    if isinstance(wanted, Mapping):
        return isinstance(present, Mapping) and all(
            key in present and covers(present[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(present, list)
            and len(present) == len(wanted)
            and all(covers(a, b) for a, b in zip(present, wanted, strict=True))
        )
    return present == wanted
