"""The side channel of the simulated engine: who holds EC or KV answers for it over TCP.

One connection a pair of workers, many questions at once. A dead owner is noticed at once (the
connection breaks), a frozen one never: deadlines are the gateway's. Questions and answers are
frames: `_HEAD` (length of the rest, call, byte), then the identifier or the payload.
"""

import asyncio
import json
from enum import IntEnum
from itertools import count
from struct import Struct
from typing import Protocol, cast

_HEAD = Struct("!IQB")
_MAX_FRAME_BYTES = 1 << 20
CONNECT_TIMEOUT_S = 5.0


class Kind(IntEnum):
    """What is asked for."""

    KV = 1
    EC = 2


class HandoffLostError(Exception):
    """The owner is gone, or no longer has what was asked for; says which."""


class Owner(Protocol):
    """What the side channel asks of the engine it speaks for."""

    def handoff_s(self, kind: Kind, identifier: str) -> float | None:
        """Return how long the transfer takes; None: nothing there."""
        ...

    def hand_over(self, kind: Kind, identifier: str) -> bytes | None:
        """Return what was asked for, None if it is gone by now; a KV cache leaves with it."""
        ...


class _Frames(asyncio.Protocol):
    """Cuts the byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEAD.size:
            length, call, byte = _HEAD.unpack_from(buffer)
            if length > _MAX_FRAME_BYTES:
                self.close()
                return
            if len(buffer) < _HEAD.size + length:
                return
            rest = bytes(buffer[_HEAD.size : _HEAD.size + length])
            del buffer[: _HEAD.size + length]
            self.frame_received(call, byte, rest)

    def frame_received(self, call: int, byte: int, rest: bytes) -> None:
        raise NotImplementedError

    def send(self, call: int, byte: int, rest: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_HEAD.pack(len(rest), call, byte) + rest)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _OwnerEnd(_Frames):
    """Answers a taker: 1 and the payload, or 0."""

    def __init__(self, owner: Owner, connections: set["_OwnerEnd"]) -> None:
        super().__init__()
        self._owner = owner
        self._connections = connections
        self._transfers: set[asyncio.TimerHandle] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for transfer in self._transfers:
            transfer.cancel()

    def frame_received(self, call: int, byte: int, rest: bytes) -> None:
        try:
            kind, identifier = Kind(byte), rest.decode()
        except ValueError:
            self.close()
            return
        handoff_s = self._owner.handoff_s(kind, identifier)
        if handoff_s is None:
            self.send(call, 0, b"")
            return

        def finish() -> None:
            self._transfers.discard(transfer)
            payload = self._owner.hand_over(kind, identifier)
            self.send(call, payload is not None, payload or b"")

        transfer = asyncio.get_running_loop().call_later(handoff_s, finish)
        self._transfers.add(transfer)


class _TakerEnd(_Frames):
    """Asks an owner."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = count()
        self._pending: dict[int, asyncio.Future[bytes | None]] = {}

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def frame_received(self, call: int, byte: int, rest: bytes) -> None:
        answer = self._pending.get(call)
        if answer is not None and not answer.done():
            answer.set_result(rest if byte else None)

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(HandoffLostError("the owner went away during the handoff"))

    async def fetch(self, kind: Kind, identifier: str) -> bytes:
        call = next(self._calls)
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._pending[call] = answer
        try:
            self.send(call, kind, identifier.encode())
            payload = await answer
        finally:
            del self._pending[call]
        if payload is None:
            raise HandoffLostError("the owner no longer has it")
        return payload


class SideChannel:
    """Both ends of one engine: the listener for takers, the connections to owners."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._server: asyncio.Server | None = None
        self._takers: set[_OwnerEnd] = set()
        self._owners: dict[bytes, _TakerEnd] = {}
        self._connecting: dict[bytes, asyncio.Lock] = {}
        self.address = b""
        """JSON for handles: where takers find this engine; set by `open`."""

    async def open(self, host: str, port: int) -> None:
        """Listen; OSError if the address cannot be had."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _OwnerEnd(self._owner, self._takers), host, port
        )
        bound_port = self._server.sockets[0].getsockname()[1]
        self.address = json.dumps({"host": host, "port": bound_port}).encode()

    async def fetch(self, address: bytes, kind: Kind, identifier: str) -> bytes:
        """Take what a handle names from its owner; `HandoffLostError` if that cannot be."""
        end = self._owners.get(address)
        if end is None or not end.is_open:
            end = await self._connect(address)
        return await end.fetch(kind, identifier)

    async def close(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._server is not None:
            self._server.close()
        for end in [*self._takers, *self._owners.values()]:
            end.close()
        self._owners.clear()

    async def _connect(self, address: bytes) -> _TakerEnd:
        async with self._connecting.setdefault(address, asyncio.Lock()):
            end = self._owners.get(address)
            if end is not None and end.is_open:
                return end
            try:
                where = json.loads(address)
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    _, end = await asyncio.get_running_loop().create_connection(
                        _TakerEnd, where["host"], where["port"]
                    )
            except (OSError, TimeoutError):
                raise HandoffLostError("the owner cannot be reached") from None
            except (ValueError, KeyError, TypeError):
                raise HandoffLostError("the handle's address is unreadable") from None
            self._owners = {
                at: open_end for at, open_end in self._owners.items() if open_end.is_open
            }
            self._owners[address] = end
            return end
