"""The words every program shares: stages, roles, methods, keys, ports, environment variables.

A name that two programs must agree on is written here once. This module imports the standard
library only, so that anything, the arithmetic of `epd.policy` included, may import it.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final, Self

# --- stages, roles, methods --------------------------------------------------------------------


@unique
class Stage(StrEnum):
    """A step of one request, in the order in which requests pass through them."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"


@unique
class Role(StrEnum):
    """The stages a pod is offered; the value is the pod's role label (llm-d's seven values).

    A role is a hint to whoever places work. Every pod can serve every stage at any time.
    """

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    ENCODE_PREFILL = "encode-prefill"
    ENCODE_DECODE = "encode-decode"
    PREFILL_DECODE = "prefill-decode"
    ENCODE_PREFILL_DECODE = "encode-prefill-decode"

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages a pod of this role is offered."""
        return _STAGES_OF[self]

    @classmethod
    def of(cls, stages: Iterable[Stage]) -> "Role":
        """Return the role that is offered exactly these stages; ValueError for none at all."""
        wanted = frozenset(stages)
        if not wanted:
            raise ValueError("a role has at least one stage; allowed: " + ", ".join(Stage))
        return _ROLE_OF[wanted]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the role that is written `text`; ValueError lists the allowed values."""
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"unknown role {text!r}; allowed: {', '.join(cls)}") from None


_STAGES_OF: Final[Mapping[Role, frozenset[Stage]]] = MappingProxyType(
    {role: frozenset(Stage(part) for part in role.value.split("-")) for role in Role}
)
_ROLE_OF: Final[Mapping[frozenset[Stage], Role]] = MappingProxyType(
    {stages: role for role, stages in _STAGES_OF.items()}
)


@unique
class Method(StrEnum):
    """How a cluster is split: the letters joined by no dash share one pod."""

    EPD = "EPD"
    EP_D = "EP-D"
    ED_P = "ED-P"
    E_P_D = "E-P-D"

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles this method deals out, in stage order; together they cover every stage once."""
        return _ROLES_OF[self]


_ROLES_OF: Final[Mapping[Method, tuple[Role, ...]]] = MappingProxyType(
    {
        Method.EPD: (Role.ENCODE_PREFILL_DECODE,),
        Method.EP_D: (Role.ENCODE_PREFILL, Role.DECODE),
        Method.ED_P: (Role.ENCODE_DECODE, Role.PREFILL),
        Method.E_P_D: (Role.ENCODE, Role.PREFILL, Role.DECODE),
    }
)

# --- the API and the keys on its objects -------------------------------------------------------

API_GROUP: Final = "epd.dev"
API_VERSION_NAME: Final = "v1alpha1"
API_VERSION: Final = f"{API_GROUP}/{API_VERSION_NAME}"
KIND: Final = "EPDCluster"
PLURAL: Final = "epdclusters"

ROLE_LABEL: Final = f"{API_GROUP}/role"
"""On a pod: its role. The one thing a flip changes."""

LLM_D_ROLE_LABEL: Final = "llm-d.ai/role"
"""On a pod: the same value again, for routers that speak llm-d's labels."""

CLUSTER_LABEL: Final = f"{API_GROUP}/cluster"
"""On every object of a cluster: the name of its `EPDCluster`."""

COMPONENT_LABEL: Final = "app.kubernetes.io/component"
"""On every object of a cluster: which program it is, a value of `Component`."""

DRAINING: Final = f"{API_GROUP}/draining"
"""Annotation (or label) on a pod, `"true"`: it gets no new work and finishes what it has."""

DRAIN_STARTED: Final = f"{API_GROUP}/drain-started"
"""Annotation on a draining pod: since when (RFC 3339). Its deletion waits for a bounded time."""

DRAIN_REASON: Final = f"{API_GROUP}/drain-reason"
"""Annotation on a draining pod: why, as far as the operator began it (`ScaleDown`, `Upgrade`)."""

ASSIGNED_ROLE: Final = f"{API_GROUP}/assigned-role"
"""Annotation on a pod: the role the operator last gave it; another label is a user's own flip."""

FLIPPED_AT: Final = f"{API_GROUP}/flipped-at"
"""Annotation on a pod: when the control loop last changed its role (RFC 3339)."""

REVISION_LABEL: Final = f"{API_GROUP}/revision"
"""On a worker pod: digest of the template it was made from; another digest is an upgrade."""

FINALIZER: Final = f"{API_GROUP}/finalizer"
"""On an `EPDCluster`: its pods are drained before the object goes."""


@unique
class Component(StrEnum):
    """The programs of a running cluster, as values of the component label."""

    OPERATOR = "operator"
    GATEWAY = "gateway"
    WORKER = "worker"


# --- ports -------------------------------------------------------------------------------------


@unique
class PortName(StrEnum):
    """Names of container and service ports (at most 15 characters, as Kubernetes asks)."""

    GATEWAY_HTTP = "http"
    WORKER_GRPC = "grpc"
    WORKER_METRICS = "metrics"
    WORKER_KV = "kv"
    WORKER_EC = "ec"
    WORKER_PROBES = "probes"


DEFAULT_PORTS: Final[Mapping[PortName, int]] = MappingProxyType(
    {
        PortName.GATEWAY_HTTP: 8000,  # OpenAI routes, /health, /ready, /metrics
        PortName.WORKER_GRPC: 7000,  # worker service and grpc health
        PortName.WORKER_METRICS: 7001,  # /metrics over HTTP
        PortName.WORKER_KV: 7002,  # NIXL handshake for KV handoffs
        PortName.WORKER_EC: 7003,  # NIXL handshake for EC handoffs
        PortName.WORKER_PROBES: 7004,  # /health, /ready, /load over HTTP
    }
)

GATEWAY_TLS_PORT_NAME: Final = "https"
"""Name of the gateway's port where it speaks TLS: what scrapes it, or proxies it, goes by that."""

GATEWAY_ADMIN_PORT: Final = 8001
"""On a gateway pod's loopback: its admin routes and live view, reached by a port-forward."""

WORKER_TLS_NAME: Final = f"worker.{API_GROUP}"
"""The name in the certificates of pods, whatever their addresses; only a cluster's own authority
signs it."""

# --- environment variables ---------------------------------------------------------------------

GATEWAY_ENV_PREFIX: Final = "EPD_GATEWAY_"
"""Before each gateway setting: `EPD_GATEWAY_MEDIA__MAX_IMAGES` is `media.max_images`."""


@unique
class Env(StrEnum):
    """The other environment variables that our programs read, or set for one another.

    Workers are told everything else on their command line.
    """

    LOG_LEVEL = "EPD_LOG_LEVEL"  # debug, info, warning, error
    LOG_FORMAT = "EPD_LOG_FORMAT"  # human, json
    STATE_DIR = "EPD_STATE_DIR"  # where clusters on one machine keep roster, addresses and logs
    VLLM_PLUGIN = "EPD_VLLM_PLUGIN"  # 1 in the vLLM processes of our worker: apply our plugin
    EC_LEASE_SECONDS = "EPD_EC_LEASE_SECONDS"  # from the worker to its vLLM processes
