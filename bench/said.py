"""Answers every GET at some ports, on all of this machine's addresses, with a file.

    python bench/said.py PORT=FILE ...

So pods that kwok only says are there tell what a real program once told. Every address of 127/8 is
this machine's.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path


async def answer(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request and hang up."""
    await reader.readuntil(b"\r\n\r\n")
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    writer.write(head.encode() + b"Content-Type: text/plain\r\n\r\n" + body)
    await writer.drain()
    writer.close()


async def main(said: dict[int, bytes]) -> None:
    """Serve until killed."""
    for port, body in said.items():
        await asyncio.start_server(partial(answer, body), "0.0.0.0", port)  # noqa: S104
    print("answering", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    pairs = (argument.split("=", 1) for argument in sys.argv[1:])
    asyncio.run(main({int(port): Path(file).read_bytes() for port, file in pairs}))
