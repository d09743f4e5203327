"""Free ports on this machine, for processes that are about to start.

A process needs a second or more until it listens. So that nobody is lent its ports meanwhile, this
process or another `epd`, a block that is lent out is claimed: by sockets in Linux's abstract
namespace, which end with whoever holds them.
"""

import atexit
import errno
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from epd_operator.local_state import LocalError

# Below the ports that Linux lends to outgoing connections (32768 and up): nobody is given one of
# these between our look and the start of the process.
FIRST_PORT: Final = 18_000
LAST_PORT: Final = 32_000

SIDE_CHANNEL_PORTS: Final = 16
"""An engine takes one side-channel port per tensor-parallel rank, counting up from the first."""


@dataclass(frozen=True, slots=True)
class WorkerPorts:
    """The ports of one worker; `kv` and `ec` are the first of `SIDE_CHANNEL_PORTS` each."""

    grpc: int
    metrics: int
    kv: int
    ec: int

    @classmethod
    def from_block(cls, first: int) -> "WorkerPorts":
        """Lay a worker's ports out from `first` on."""
        return cls(grpc=first, metrics=first + 1, kv=first + 2, ec=first + 2 + SIDE_CHANNEL_PORTS)


BLOCK_PORTS: Final = 2 + 2 * SIDE_CHANNEL_PORTS


def is_free(port: int, host: str) -> bool:
    """Tell whether a server could listen there now; OSError if `host` is not of this machine."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def blocks(size: int, seed: int | None = None) -> Iterator[int]:
    """Yield the first ports of all blocks of `size`, in random order."""
    starts = range(FIRST_PORT, LAST_PORT - size, size)
    yield from random.Random(seed).sample(starts, len(starts))


_CELL_PORTS: Final = BLOCK_PORTS
_claims: dict[int, socket.socket] = {}


def free_block(size: int, host: str, is_free: Callable[[int, str], bool] = is_free) -> int:
    """Claim `size` free ports in a row and return the first; give them back with `release`.

    Raises:
        LocalError: There are none.
    """
    for first in blocks(size):
        if _claim(first, size):
            if all(is_free(port, host) for port in range(first, first + size)):
                return first
            release(first, size)
    raise LocalError(f"no {size} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def release(first: int, size: int) -> None:
    """Give a claimed block back."""
    for cell in _cells(first, size):
        claim = _claims.pop(cell, None)
        if claim is not None:
            claim.close()


@atexit.register
def release_all() -> None:
    """Give back whatever this process has claimed."""
    for cell in list(_claims):
        _claims.pop(cell).close()


def _claim(first: int, size: int) -> bool:
    """Claim every cell that a block touches, or none; tell which."""
    cells = _cells(first, size)
    if any(cell in _claims for cell in cells):
        return False
    for cell in cells:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0epd-ports-{cell}")
        except OSError:
            claim.close()
            release(first, size)
            return False
        _claims[cell] = claim
    return True


def _cells(first: int, size: int) -> range:
    """Return the cells that a block touches; ports are claimed by the cell."""
    last = first + size - 1
    return range((first - FIRST_PORT) // _CELL_PORTS, (last - FIRST_PORT) // _CELL_PORTS + 1)
