"""What one `EPDCluster` asks for, with all that its builders need to know of the operator."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from epd.api.names import GatewayAccess, RoleEdits, RolloutType
from epd.api.roles import RoleBounds, chosen_method, initial_roles, role_bounds
from epd.api.v1alpha1 import EPDCluster, EPDClusterSpec, SecretKeyRef
from epd.vocabulary import CLUSTER_LABEL, COMPONENT_LABEL, Component, Method, Role
from epd_operator.objects import MANAGER, Key, Kind, Manifest, moment_of


@dataclass(frozen=True, slots=True)
class Images:
    """The container images of this release, for clusters that name none."""

    worker: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One valid `EPDCluster` as its user wants it.

    Attributes:
        key: Namespace and name.
        uid: Identity of the object; one that is deleted and made again has another.
        generation: Counts the changes of the spec.
        spec: The spec.
        images: Images of the release.
        deleted_at: When its deletion was asked for; None while it is to live.
    """

    key: Key
    uid: str
    generation: int
    spec: EPDClusterSpec
    images: Images
    deleted_at: datetime | None = None

    @classmethod
    def of(cls, cluster: EPDCluster, images: Images) -> "Wanted":
        """Return what an object of the API server asks for."""
        metadata = cluster.metadata
        return cls(
            key=Key(metadata.namespace or "default", metadata.name),
            uid=metadata.uid or "",
            generation=metadata.generation or 0,
            spec=cluster.spec,
            images=images,
            deleted_at=moment_of(metadata.deletion_timestamp),
        )

    @property
    def method(self) -> Method:
        """The method that the cluster starts with."""
        return chosen_method(self.spec)

    @property
    def bounds(self) -> Mapping[Role, RoleBounds]:
        """How many pods each role of the method may have."""
        return role_bounds(self.spec, self.method)

    @property
    def first_split(self) -> Mapping[Role, int]:
        """How many pods each role of the method has before anything was measured."""
        roles = initial_roles(self.spec)
        return {role: roles.count(role) for role in self.method.roles}

    @property
    def respects_flips(self) -> bool:
        """A user's own change of a pod's role stays."""
        return self.spec.control.role_edits is RoleEdits.KEEP

    @property
    def max_surge(self) -> int:
        """Pods beyond `spec.replicas` while an upgrade is under way."""
        rollout = self.spec.rollout
        return rollout.max_concurrent_pods if rollout.type is RolloutType.SURGE else 0

    @property
    def max_unavailable(self) -> int:
        """Pods below `spec.replicas` that may not serve while an upgrade is under way."""
        rollout = self.spec.rollout
        return rollout.max_concurrent_pods if rollout.type is RolloutType.IN_PLACE else 0

    @property
    def drain_deadline_s(self) -> float:
        """How long a drained pod may take to become idle."""
        return float(self.spec.rollout.drain_seconds)

    @property
    def api_keys(self) -> SecretKeyRef | None:
        """Where the accepted API keys are; None: the gateways serve everybody."""
        gateway = self.spec.gateway
        if gateway.access is GatewayAccess.OPEN:
            return None
        return gateway.api_keys_secret_ref or SecretKeyRef(name=self.name("api-keys"))

    @property
    def makes_api_key(self) -> bool:
        """The operator makes the Secret with the API key."""
        return self.api_keys is not None and self.spec.gateway.api_keys_secret_ref is None

    def name(self, suffix: str) -> str:
        """Return the name of one of the cluster's objects."""
        return f"{self.key.name}-{suffix}"

    def metadata(self, name: str, component: Component) -> Manifest:
        """Return the metadata of one of its objects, which goes when the cluster goes."""
        return {
            "name": name,
            "namespace": self.key.namespace,
            "labels": labels(self.key.name, component),
            "ownerReferences": [self.owner_reference],
        }

    @property
    def owner_reference(self) -> Manifest:
        """What says on its objects that they are its own."""
        return {
            **Kind.EPD_CLUSTER.type_meta,
            "name": self.key.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def selector(cluster: str, component: Component) -> dict[str, str]:
    """Return the labels that select one program of one cluster, in its namespace."""
    return {CLUSTER_LABEL: cluster, COMPONENT_LABEL: component.value}


def labels(cluster: str, component: Component) -> dict[str, str]:
    """Return the labels of an object of one program of one cluster."""
    return {
        **selector(cluster, component),
        "app.kubernetes.io/name": "epd",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/managed-by": MANAGER,
    }
