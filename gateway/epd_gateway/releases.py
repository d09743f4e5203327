"""Releases that a worker may not have got.

What is released while there is no connection, or to a pod that has just frozen, is lost, and the
worker would keep what it was for until the lease ends. Nothing tells what has arrived: a release
counts as received once its worker has been heard `HEARD_LATER_S` after it was sent. Those that do
not are sent again over the next connection.

A worker that did get one hears it twice, which is harmless: every handle has a name of its own, and
a name that is unknown is ignored.
"""

from collections import deque
from typing import Final, NamedTuple

from epd.wire.messages import EcHandle, KvHandle

HEARD_LATER_S: Final = 1.0
MOST_OWED: Final = 16_384
"""More are forgotten, the oldest first: their leases end in time."""


class _Owed(NamedTuple):
    sent_s: float
    ends_s: float
    is_kv: bool
    identifier: str


class OwedReleases:
    """The releases of one worker process that it is not known to have got, oldest first.

    All times are monotonic.
    """

    __slots__ = ("_owed",)

    def __init__(self) -> None:
        """Owe nothing."""
        self._owed: deque[_Owed] = deque(maxlen=MOST_OWED)

    def __len__(self) -> int:
        """Count them."""
        return len(self._owed)

    def add(self, handle: KvHandle | EcHandle, now_s: float) -> None:
        """Owe a release that is sent now, or cannot be; at the latest until the lease's end."""
        ends_s = now_s + handle.lease_ms / 1000
        self._owed.append(_Owed(now_s, ends_s, isinstance(handle, KvHandle), handle.identifier))

    def settle(self, heard_s: float) -> None:
        """Strike what a worker must have got that was last heard at `heard_s`."""
        owed = self._owed
        while owed and owed[0].sent_s + HEARD_LATER_S <= heard_s:
            owed.popleft()

    def send_again(self, now_s: float) -> tuple[list[str], list[str]]:
        """Return the KV and the EC identifiers to be sent now; they stay owed until `settle`."""
        alive = [owed._replace(sent_s=now_s) for owed in self._owed if owed.ends_s > now_s]
        self._owed = deque(alive, maxlen=MOST_OWED)
        kv = [owed.identifier for owed in alive if owed.is_kv]
        return kv, [owed.identifier for owed in alive if not owed.is_kv]

    def clear(self) -> None:
        """Owe nothing any more: the process that kept these things has ended."""
        self._owed.clear()
