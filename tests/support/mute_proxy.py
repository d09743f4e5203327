"""A TCP proxy that can fall silent: connections stay open and carry nothing more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class MuteProxy:
    """Passes bytes between clients and one address.

    Attributes:
        port: Where it listens, on loopback.
        connections: How many it has had.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = 0
        self.connections = 0
        self._audible = asyncio.Event()
        self._audible.set()
        self._open: set[asyncio.Task[None]] = set()

    def mute(self) -> None:
        """Carry nothing more on the connections that are open; new ones work."""
        self._audible.clear()
        self._audible = asyncio.Event()
        self._audible.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        audible = self._audible
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        pipes = [
            asyncio.create_task(self._pipe(reader, up_writer, audible)),
            asyncio.create_task(self._pipe(up_reader, writer, audible)),
        ]
        self._open.update(pipes)
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)
            self._open.difference_update(pipes)
            for end in (writer, up_writer):
                end.close()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, audible: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                await audible.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass

    def close(self) -> None:
        for pipe in self._open:
            pipe.cancel()


@asynccontextmanager
async def mute_proxy(host: str, port: int) -> AsyncIterator[MuteProxy]:
    """Run a proxy in front of an address."""
    proxy = MuteProxy(host, port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.close()
