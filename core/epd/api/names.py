"""The closed sets of words in an `EPDCluster`, in the CamelCase that Kubernetes objects use."""

from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

from epd.vocabulary import Method, Role


@unique
class RoleName(StrEnum):
    """A role as an `EPDCluster` spells it: `Encode` is the role `encode`."""

    ENCODE = "Encode"
    PREFILL = "Prefill"
    DECODE = "Decode"
    ENCODE_PREFILL = "EncodePrefill"
    ENCODE_DECODE = "EncodeDecode"
    PREFILL_DECODE = "PrefillDecode"
    ENCODE_PREFILL_DECODE = "EncodePrefillDecode"

    @property
    def role(self) -> Role:
        """The role this name stands for."""
        return Role[self.name]

    @classmethod
    def of(cls, role: Role) -> "RoleName":
        """Return the name under which an `EPDCluster` knows `role`."""
        return cls[role.name]


@unique
class MethodName(StrEnum):
    """A method as an `EPDCluster` spells it, or `Auto` to leave the choice to us."""

    AUTO = "Auto"
    EPD = "EPD"
    EP_D = "EP-D"
    ED_P = "ED-P"
    E_P_D = "E-P-D"

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that may be used, the preferred one first."""
        return _AUTO_PREFERENCE if self is MethodName.AUTO else (Method(self.value),)


# The finest split first: it has the most ways to follow the traffic. ED-P comes late because an
# encoder beside decodes disturbs the very streams whose TPOT users watch.
_AUTO_PREFERENCE: Final = (Method.E_P_D, Method.EP_D, Method.ED_P, Method.EPD)


@unique
class EngineType(StrEnum):
    """What runs in a worker."""

    VLLM = "VLLM"
    SIMULATED = "Simulated"


@unique
class ControlMode(StrEnum):
    """What the control loop may do with what it decides."""

    ACTIVE = "Active"  # decide and flip
    SHADOW = "Shadow"  # decide and report, flip nothing
    OFF = "Off"  # leave every role as it is


@unique
class Overflow(StrEnum):
    """When images and prompts go to a pod whose role does not offer their stage."""

    WHEN_LATE = "WhenLate"  # no pod of the role is there, or the role would miss the TTFT
    WHEN_MISSING = "WhenMissing"  # no pod of the role is there


@unique
class TransportType(StrEnum):
    """What carries handoffs between pods."""

    AUTO = "Auto"
    RDMA = "RDMA"
    TCP = "TCP"
    SHARED_MEMORY = "SharedMemory"


@unique
class CacheType(StrEnum):
    """Where a pod keeps the files of a model that it fetches from the hub."""

    POD = "Pod"  # in the pod; gone with it
    CLAIM = "Claim"  # on a volume that all pods mount
    NODE = "Node"  # in a folder of the node, for all pods on it


@unique
class RoleEdits(StrEnum):
    """What becomes of a role that somebody else writes on a pod."""

    KEEP = "Keep"  # it stands until the control loop has a reason to move the pod
    REVERT = "Revert"  # the operator puts the pod's role back


@unique
class RolloutType(StrEnum):
    """How pods are replaced when the image, the model or the pod template changes."""

    SURGE = "Surge"  # a new pod first, then the old one goes
    IN_PLACE = "InPlace"  # the old pod goes first: no spare GPU is needed


@unique
class GatewayAccess(StrEnum):
    """Whom the gateways serve."""

    KEYS = "Keys"  # whoever has an API key
    OPEN = "Open"  # everybody who can reach them


@unique
class ServiceType(StrEnum):
    """How the gateways' Service is reached; Kubernetes' own words."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


VLLM_FLAGS_WE_SET: Final = MappingProxyType(
    {
        "--model": "spec.model.source",
        "--served-model-name": "spec.model.servedName",
        "--revision": "spec.model.revision",
        "--api-key": "spec.gateway.apiKeysSecretRef",
        "--host": "the worker itself",
        "--port": "the worker itself",
        "--kv-transfer-config": "spec.transport",
        "--ec-transfer-config": "spec.transport",
    }
)
"""Engine flags a cluster may not give in `spec.engine.args`, and what decides them instead."""
