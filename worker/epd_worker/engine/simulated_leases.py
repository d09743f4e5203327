"""What an engine keeps for others to take, and until when."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(slots=True)
class _Lease:
    payload: bytes
    size: int
    holders: set[str]
    expires_s: float


class Leases:
    """A table of leases that ends each one in time; sizes in the caller's unit.

    What is granted under one identifier to two holders is kept once, until both have released it.
    """

    def __init__(self, lease_s: float, when_freed: Callable[[int], None]) -> None:
        self._lease_s = lease_s
        self._when_freed = when_freed
        self._table: dict[str, _Lease] = {}
        self._expiries: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._table)

    def grant(self, identifier: str, payload: bytes, size: int, holder: str = "") -> None:
        """Keep `payload` for `holder`, too; the lease begins anew."""
        loop = asyncio.get_running_loop()
        expires_s = loop.time() + self._lease_s
        lease = self._table.get(identifier)
        if lease is None:
            self._table[identifier] = _Lease(payload, size, {holder}, expires_s)
            heappush(self._expiries, (expires_s, identifier))
        else:
            lease.holders.add(holder)
            lease.expires_s = expires_s
        if self._timer is None:
            self._timer = loop.call_at(self._expiries[0][0], self._expire)

    def payload(self, identifier: str) -> bytes | None:
        """Return what is kept under `identifier`, None if nothing is."""
        lease = self._table.get(identifier)
        return None if lease is None else lease.payload

    def size(self, identifier: str) -> int:
        """Return the size of what is kept under `identifier`."""
        return self._table[identifier].size

    def release(self, identifier: str, holder: str) -> None:
        """`holder` needs it no more; frees with the last. Unknown ones are ignored."""
        lease = self._table.get(identifier)
        if lease is not None:
            lease.holders.discard(holder)
            if not lease.holders:
                self.remove(identifier)

    def remove(self, identifier: str) -> None:
        """Free at once, whoever holds it. Unknown identifiers are ignored."""
        lease = self._table.pop(identifier, None)
        if lease is not None:
            self._when_freed(lease.size)

    def clear(self) -> None:
        """Free everything and stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._expiries.clear()
        for identifier in list(self._table):
            self.remove(identifier)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._expiries and self._expiries[0][0] <= now_s:
            _, identifier = heappop(self._expiries)
            lease = self._table.get(identifier)
            if lease is None:
                continue
            if lease.expires_s <= now_s:
                self.remove(identifier)
            else:
                heappush(self._expiries, (lease.expires_s, identifier))
        self._timer = loop.call_at(self._expiries[0][0], self._expire) if self._expiries else None
