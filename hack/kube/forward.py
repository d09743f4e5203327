"""Carries connections from this machine's loopback into a node's network.

`python -m kube.forward FD PROCESS_ID HOST PORT`: FD is a listening socket, made where it listens;
connections go out from the network of the process. Standard library only.
"""

import asyncio
import socket
import sys
from contextlib import suppress

from kube import namespaces

CHUNK_BYTES = 64 << 10


async def main(listening: socket.socket, host: str, port: int) -> None:
    """Serve until killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()  # as if the connection itself had been refused
            return
        await asyncio.gather(_copy(reader, onward_writer), _copy(onward_reader, writer))
        onward_writer.close()
        writer.close()

    server = await asyncio.start_server(serve, sock=listening)
    async with server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end; a reset on one side becomes one on the other."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        with suppress(OSError):
            writer.transport.abort()


if __name__ == "__main__":
    listener = socket.socket(fileno=int(sys.argv[1]))
    namespaces.enter(int(sys.argv[2]), network_only=True)
    asyncio.run(main(listener, sys.argv[3], int(sys.argv[4])))
