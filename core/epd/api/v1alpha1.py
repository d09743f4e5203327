"""`EPDCluster` of `epd.dev/v1alpha1` as frozen models: the one source of schema, docs and checks.

House rules of the shape: no floats, no durations as strings, units in names, enumerated words
rather than booleans, lists of named objects rather than maps, a bound on everything. Attribute
docstrings are the field descriptions of `docs/api.md` and of the generated schema. The models are
strict: a number in quotes is not a number. `epd.api.load` turns what they refuse into sentences.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from epd.api.base import ApiModel, Location
from epd.api.meta import ObjectMeta
from epd.api.model import ModelSpec
from epd.api.names import (
    VLLM_FLAGS_WE_SET,
    ControlMode,
    EngineType,
    GatewayAccess,
    MethodName,
    Overflow,
    RoleEdits,
    RoleName,
    RolloutType,
    ServiceType,
    TransportType,
)
from epd.api.patterns import HOST_NAME, KEY_NAME, NO_SPACES, OBJECT_NAME, RESOURCE_NAME
from epd.api.roles import split_problems
from epd.api.status import EPDClusterStatus

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Replicas = Annotated[int, Field(ge=1, le=1024)]
Pods = Annotated[int, Field(ge=0, le=1024)]
EngineArg = Annotated[str, Field(min_length=1, max_length=4096)]
Domain = Annotated[str, Field(max_length=253, pattern=HOST_NAME)]
OpaqueObject = dict[str, JsonValue]


class SimulatedEngineSpec(ApiModel):
    """What a simulated engine pretends."""

    cost_curves_file: str | None = Field(default=None, min_length=1, max_length=1024)
    """File with the time each stage takes by size; built-in curves where absent."""


class EngineSpec(ApiModel):
    """What runs in each worker."""

    type: EngineType = EngineType.VLLM
    """`VLLM`, or `Simulated`: made-up tokens with timings from cost curves, no GPU and no model. It
    cannot be changed."""

    image: str | None = Field(default=None, max_length=512, pattern=NO_SPACES)
    """Container image of the worker (`VLLM` in Kubernetes only); the release's own where absent."""

    args: tuple[EngineArg, ...] = Field(default=(), max_length=128)
    """Engine flags as vLLM takes them on its command line, one item per flag or value."""

    simulated: SimulatedEngineSpec | None = None
    """Settings of type `Simulated`."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        problems: list[tuple[Location, str]] = []
        if self.type is EngineType.SIMULATED:
            if self.image is not None:
                reason = "type Simulated runs the release's own image; remove image"
                problems.append((("image",), reason))
            if self.args:
                reason = "type Simulated takes no vLLM flags; remove args or set type: VLLM"
                problems.append((("args",), reason))
        else:
            if self.simulated is not None:
                reason = "belongs to type Simulated; remove it or set type: Simulated"
                problems.append((("simulated",), reason))
            problems += _flag_problems(self.args)
        self.refuse(problems)
        return self


def _flag_problems(args: tuple[str, ...]) -> list[tuple[Location, str]]:
    problems: list[tuple[Location, str]] = []
    for index, arg in enumerate(args):
        flag = arg.partition("=")[0]
        decided_by = VLLM_FLAGS_WE_SET.get(flag.replace("_", "-"))
        if decided_by is not None:
            reason = f"{flag} is decided by {decided_by}; remove it here"
        elif flag.startswith("--") and any(c.isspace() for c in flag):
            reason = (
                f"{flag.split()[0]} and its value are one item; write --flag=value or two items"
            )
        elif index == 0 and not arg.startswith("-"):
            reason = "is a value without a flag before it; flags begin with --"
        else:
            continue
        problems.append((("args", index), reason))
    return problems


class RolePolicy(ApiModel):
    """How many pods one role may have."""

    name: RoleName
    """The role; it must be one that `spec.method` deals out."""

    min: Pods = 1
    """Fewest pods; 0 lets the role stand empty, its work then overflows to the others."""

    max: Replicas | None = None
    """Most pods; unbounded where absent."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.max is not None and self.max < self.min:
            reason = f"{self.max} is below min {self.min}; raise max or lower min"
            self.refuse([(("max",), reason)])
        return self


class SLOSpec(ApiModel):
    """The service-level objective: this share of requests meets both limits."""

    ttft_milliseconds: int = Field(default=1000, ge=1, le=600_000)
    """Time to first token, from the request's arrival at the gateway."""

    tpot_milliseconds: int = Field(default=50, ge=1, le=60_000)
    """Time per output token after the first: the mean over a request's m-1 gaps."""

    attainment_percent: int = Field(default=90, ge=1, le=100)
    """Share of requests that should meet both."""

    overflow: Overflow = Overflow.WHEN_LATE
    """When images and prompts go to a pod of another role: `WhenLate` if theirs is predicted to
    miss the time to first token, `WhenMissing` only if no pod has theirs."""


class ControlSpec(ApiModel):
    """How the control loop moves roles."""

    mode: ControlMode = ControlMode.ACTIVE
    """`Active` flips, `Shadow` only reports what it would flip, `Off` does neither."""

    interval_seconds: int = Field(default=5, ge=1, le=3600)
    """Time between two passes."""

    cooldown_seconds: int = Field(default=10, ge=0, le=86_400)
    """A pod that was flipped keeps its role at least this long."""

    max_concurrent_flips: int = Field(default=1, ge=1, le=256)
    """Flips under way at once."""

    role_edits: RoleEdits = RoleEdits.KEEP
    """A role that somebody else writes on a pod: `Keep` leaves it until the control loop has a
    reason to move the pod, `Revert` puts it back."""


class RolloutSpec(ApiModel):
    """How pods are replaced when the image, the model or the pod template changes."""

    type: RolloutType = RolloutType.SURGE
    """`Surge` starts a new pod before an old one goes; `InPlace` ends the old one first, where
    there is no spare GPU."""

    max_concurrent_pods: int = Field(default=1, ge=1, le=256)
    """Pods being replaced at once."""

    drain_seconds: int = Field(default=120, ge=0, le=86_400)
    """A pod that goes may finish its streams for this long; what still runs then goes on
    elsewhere."""


class TransportSpec(ApiModel):
    """What carries embeddings and KV cache between pods."""

    type: TransportType = TransportType.AUTO
    """`Auto` takes RDMA where there is a device, else shared memory or TCP. `RDMA` and `TCP` take
    nothing else; `RDMA` without a device is an error of the worker's. `SharedMemory`, which pods do
    not have, is set up over TCP."""

    rdma_resource_name: str | None = Field(default=None, max_length=317, pattern=RESOURCE_NAME)
    """Extended resource each pod asks for, such as `rdma/hca`."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.rdma_resource_name is not None and self.type not in (
            TransportType.AUTO,
            TransportType.RDMA,
        ):
            reason = f"type {self.type} uses no RDMA device; remove it or set type: RDMA"
            self.refuse([(("rdmaResourceName",), reason)])
        return self


class SecretKeyRef(ApiModel):
    """One key of a Secret in the cluster's namespace."""

    name: str = Field(max_length=253, pattern=OBJECT_NAME)
    """Name of the Secret."""

    key: str = Field(default="keys", max_length=253, pattern=KEY_NAME)
    """Key in it."""


class PodTemplate(ApiModel):
    """What is merged into pods that we make. Kept as it is; Kubernetes checks it."""

    metadata: OpaqueObject | None = Field(
        default=None,
        max_length=16,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    """Labels and annotations."""

    spec: OpaqueObject | None = Field(
        default=None,
        max_length=128,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    """The spec of a pod, or parts of it. Our container is called `worker` or `gateway`."""

    @property
    def manifest(self) -> OpaqueObject:
        """The template as plain data, without what is absent."""
        parts = {"metadata": self.metadata, "spec": self.spec}
        return {name: part for name, part in parts.items() if part is not None}


class GatewayLimits(ApiModel):
    """What a client may send; more is refused with OpenAI's error shape."""

    max_body_bytes: int = Field(default=64 * MIB, ge=KIB, le=GIB)
    """Size of a request body, images as data URLs included."""

    max_images: int = Field(default=64, ge=1, le=1024)
    """Images in one request."""

    max_image_bytes: int = Field(default=20 * MIB, ge=KIB, le=GIB)
    """Size of one encoded image (PNG, JPEG, …), sent or fetched."""

    max_image_pixels: int = Field(default=64_000_000, ge=1, le=1_000_000_000)
    """Width times height of one image."""

    media_timeout_seconds: int = Field(default=10, ge=1, le=600)
    """Time to fetch one image, redirects included."""

    max_requests_in_flight_per_key: int = Field(default=0, ge=0, le=1_000_000)
    """Requests of one API key that one gateway serves at once; 0 sets no limit."""

    max_requests_per_minute_per_key: int = Field(default=0, ge=0, le=1_000_000_000)
    """Requests of one API key that one gateway takes in a minute; 0 sets no limit."""

    allowed_media_domains: tuple[Domain, ...] = Field(default=(), max_length=256)
    """Hosts (and their subdomains) to fetch images from; any public host where empty."""


class GatewaySpec(ApiModel):
    """The gateways in front of the pods."""

    replicas: int = Field(default=1, ge=1, le=256)
    """Gateways, each with its own roster."""

    port: int = Field(default=8000, ge=1, le=65_535)
    """HTTP port that clients talk to."""

    service_type: ServiceType = ServiceType.CLUSTER_IP
    """How the gateways' Service is reached."""

    access: GatewayAccess = GatewayAccess.KEYS
    """`Keys`: whoever has an API key; `Open`: everybody who can reach the port."""

    limits: GatewayLimits = GatewayLimits()
    """What a client may send."""

    api_keys_secret_ref: SecretKeyRef | None = None
    """Secret with the accepted API keys, one a line. Where absent, the operator makes one named
    `CLUSTER-api-keys` with one key."""

    tls_secret_name: str | None = Field(default=None, max_length=253, pattern=OBJECT_NAME)
    """Secret of type `kubernetes.io/tls` with the certificate for clients; plain HTTP where
    absent."""

    pod_template: PodTemplate = PodTemplate()
    """Pod template merged into every gateway pod, as `spec.podTemplate` is into the workers."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.access is GatewayAccess.OPEN and self.api_keys_secret_ref is not None:
            reason = "access Open asks for no keys; remove it or set access: Keys"
            self.refuse([(("apiKeysSecretRef",), reason)])
        return self


class EPDClusterSpec(ApiModel):
    """What the user wants."""

    model: ModelSpec
    """The model all pods hold."""

    engine: EngineSpec = EngineSpec()
    """What runs in each worker."""

    replicas: Replicas
    """Worker pods (the scale subresource)."""

    method: MethodName = MethodName.AUTO
    """How pods are split; `Auto` takes the finest split the replicas and roles allow."""

    roles: tuple[RolePolicy, ...] = Field(
        default=(),
        max_length=len(RoleName),
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Bounds per role; a role the method deals out and that is not listed has min 1, no max."""

    slo: SLOSpec = SLOSpec()
    """The service-level objective the split is steered by."""

    control: ControlSpec = ControlSpec()
    """How the control loop moves roles."""

    transport: TransportSpec = TransportSpec()
    """What carries handoffs between pods."""

    rollout: RolloutSpec = RolloutSpec()
    """How pods are replaced when they must change."""

    gateway: GatewaySpec = GatewaySpec()
    """The gateways in front of the pods."""

    pod_template: PodTemplate = PodTemplate()
    """Pod template merged into every worker pod: resources, nodeSelector, tolerations, volumes."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        self.refuse(split_problems(self))
        return self


class EPDCluster(ApiModel):
    """A multimodal model served by one fleet of pods that change role in place."""

    api_version: Literal["epd.dev/v1alpha1"]
    """The version of this API."""

    kind: Literal["EPDCluster"]
    """The kind of object."""

    metadata: ObjectMeta
    """Name and what else Kubernetes keeps with every object."""

    spec: EPDClusterSpec
    """What the user wants."""

    status: EPDClusterStatus | None = None
    """What the operator found; it alone writes here."""
