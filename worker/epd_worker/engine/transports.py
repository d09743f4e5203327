"""What handoffs travel over: `spec.transport.type` in the words of UCX, which NIXL rests on."""

from pathlib import Path
from typing import Final

from epd_worker.engine.settings import SettingsError

AUTO: Final = "Auto"
UCX_TLS: Final = "UCX_TLS"
"""The environment variable that UCX reads."""

DEVICES: Final = Path("/dev/infiniband")
"""Where Linux shows RDMA devices: InfiniBand, RoCE and EFA alike."""

_OF_HOSTS: Final = {
    "RDMA": "ib,self",
    "TCP": "tcp,self",
    # NIXL asks for a transport that tells of a peer's end, which shared memory does not.
    "SharedMemory": "sm,tcp,self",
}
# What reads and writes a GPU's memory at either end; without it UCX takes no such buffer at all.
_OF_GPUS: Final = {
    "RDMA": "cuda",
    "TCP": "cuda_copy",
    "SharedMemory": "cuda",
}

TRANSPORTS: Final = (AUTO, *_OF_HOSTS)
"""The types of `epd.api`'s `TransportType`, which is not imported: a worker needs no pydantic."""


def ucx_tls(transport: str, *, cuda: bool, devices: Path = DEVICES) -> str:
    """Return the value of `UCX_TLS` that holds UCX to a transport; empty: UCX may choose.

    Args:
        transport: One of `TRANSPORTS`.
        cuda: What is handed off lies in a GPU's memory.
        devices: The folder of RDMA devices.

    Raises:
        SettingsError: There is no RDMA device, and nothing else is to be used. NIXL would say no
            more than `NIXL_ERR_BACKEND`.

    Source: UCX's documentation of `UCX_TLS`; `ib` stands for every transport of RDMA devices,
    `cuda` for all that copies a GPU's memory, `self` for a process's handoffs to itself.
    """
    if transport == AUTO:
        return ""
    if transport == "RDMA" and not any(devices.glob("uverbs*")):
        raise SettingsError(
            f"the transport is to be RDMA, and there is no device in {devices}: let pods ask for "
            "one (spec.transport.rdmaResourceName), or set spec.transport.type to Auto"
        )
    over = _OF_HOSTS[transport]
    return f"{over},{_OF_GPUS[transport]}" if cuda else over
