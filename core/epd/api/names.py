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
class TransportType(StrEnum):
    """What carries handoffs between pods."""

    AUTO = "Auto"
    RDMA = "RDMA"
    TCP = "TCP"
    SHARED_MEMORY = "SharedMemory"


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
