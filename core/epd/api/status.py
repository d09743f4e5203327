"""What the operator reports about a cluster. Small, and rebuilt from the world at every pass."""

from typing import Final, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from epd.api.base import ApiModel
from epd.api.names import RoleName
from epd.api.patterns import REASON

TIME: Final[JsonDict] = {"format": "date-time"}


class StatusModel(ApiModel):
    """Base of what is below `status`: a field of a newer release is passed over, not refused."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """One observation in the shape of `metav1.Condition`."""

    type: str = Field(min_length=1, max_length=316)
    """`Ready`, `SLOMet`, `Balanced`, `MetricsAvailable`, `Reconciling` or `Stalled`."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    observed_generation: int | None = Field(default=None, ge=0)
    """The `metadata.generation` it was judged by."""

    last_transition_time: str = Field(max_length=64, json_schema_extra=TIME)
    """When `status` last changed (RFC 3339)."""

    reason: str = Field(max_length=1024, pattern=REASON)
    """One CamelCase word that programs may compare."""

    message: str = Field(max_length=32_768)
    """A sentence for people."""


class RoleStatus(StatusModel):
    """The pods of one role."""

    name: RoleName
    """The role."""

    desired: int = Field(ge=0, le=1024)
    """Pods the last decision wants it to have."""

    ready: int = Field(ge=0, le=1024)
    """Pods that have it and serve."""


class LastDecision(StatusModel):
    """The latest decision of the control loop."""

    time: str = Field(max_length=64, json_schema_extra=TIME)
    """When it was taken (RFC 3339)."""

    reason: str = Field(max_length=1024, pattern=REASON)
    """Why pods were flipped, or why none was, in one CamelCase word."""

    message: str = Field(max_length=32_768)
    """The same as a sentence, with the figures it rests on."""


class EPDClusterStatus(StatusModel):
    """What the operator found at its last pass."""

    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Observations, one per type."""

    observed_generation: int | None = Field(default=None, ge=0)
    """The `metadata.generation` this status was made from."""

    replicas: int | None = Field(default=None, ge=0, le=1024)
    """Worker pods that exist (the scale subresource)."""

    selector: str | None = Field(default=None, max_length=1024)
    """Label selector of the worker pods (the scale subresource)."""

    roles: tuple[RoleStatus, ...] = Field(
        default=(),
        max_length=len(RoleName),
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Pods by role."""

    last_decision: LastDecision | None = None
    """The latest decision of the control loop."""
