"""The part of Kubernetes object metadata that a manifest may carry and our programs read."""

from typing import Annotated

from pydantic import Field, JsonValue

from epd.api.base import ApiModel
from epd.api.patterns import CLUSTER_NAME, NAMESPACE

LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=262_144)]
Timestamp = Annotated[str, Field(max_length=64)]


class ObjectMeta(ApiModel):
    """Name, labels and annotations of a user; the rest is Kubernetes' own bookkeeping."""

    # Pods and services are named after the cluster with a suffix, within 63 characters.
    name: str = Field(max_length=48, pattern=CLUSTER_NAME)
    """Name of the cluster; its pods' names begin with it."""

    namespace: str | None = Field(default=None, max_length=63, pattern=NAMESPACE)
    """Namespace of the cluster and of everything it owns."""

    labels: dict[str, LabelValue] | None = Field(default=None, max_length=256)
    """Labels, for users and tools."""

    annotations: dict[str, AnnotationValue] | None = Field(default=None, max_length=256)
    """Annotations, for users and tools."""

    uid: str | None = Field(default=None, max_length=128)
    """Set by Kubernetes."""

    resource_version: str | None = Field(default=None, max_length=128)
    """Set by Kubernetes."""

    generation: int | None = Field(default=None, ge=0)
    """Set by Kubernetes; counts the changes of spec."""

    creation_timestamp: Timestamp | None = None
    """Set by Kubernetes."""

    deletion_timestamp: Timestamp | None = None
    """Set by Kubernetes once the object is being deleted."""

    deletion_grace_period_seconds: int | None = Field(default=None, ge=0)
    """Set by Kubernetes."""

    finalizers: tuple[str, ...] | None = Field(default=None, max_length=64)
    """Who wants to act before the object goes."""

    owner_references: tuple[dict[str, JsonValue], ...] | None = Field(default=None, max_length=64)
    """Set by Kubernetes and its controllers."""

    managed_fields: tuple[dict[str, JsonValue], ...] | None = Field(default=None, max_length=1024)
    """Set by Kubernetes."""
