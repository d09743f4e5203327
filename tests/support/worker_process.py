"""Worker processes as `epd up` starts them, and one gateway's session with a worker."""

import asyncio
import os
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from epd.wire.messages import Description, GatewayFrame, Load, Outcome, Submit, WorkerFrame
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient

_LISTENS = re.compile(rb"listens on (\S+)")


class WorkerProcess:
    """A worker with a simulated engine on a free port."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""
        self.log = b""

    async def until_listening(self) -> None:
        """Wait until the port is known."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log += line
            if found := _LISTENS.search(line):
                self.address = found[1].decode()
                return
        raise AssertionError(f"the worker ended: {self.log.decode()}")

    async def ended(self) -> int:
        """Wait for the end; return the exit status, with all the process said in `log`."""
        assert self.process.stderr is not None
        self.log += await self.process.stderr.read()
        return await self.process.wait()


async def start_process(*arguments: str) -> WorkerProcess:
    """Start `python -m epd_worker` with a simulated engine."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "epd_worker", "--engine", "simulated", "--listen", "127.0.0.1:0"),
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EPD_LOG_LEVEL": "info"},
    )
    return WorkerProcess(process)


@asynccontextmanager
async def worker_process(*arguments: str) -> AsyncIterator[WorkerProcess]:
    """Run a worker that listens; it is killed at the end if it is still there."""
    worker = await start_process(*arguments)
    try:
        await worker.until_listening()
        yield worker
    finally:
        if worker.process.returncode is None:
            worker.process.kill()
        await worker.ended()


class GatewaySession:
    """One gateway's view of one worker."""

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self.call: Any = client.session()
        self.payloads: dict[int, bytes] = defaultdict(bytes)
        self.token_ids: dict[int, bytes] = defaultdict(bytes)
        self.outcomes: dict[int, Outcome] = {}
        self.frames: list[WorkerFrame] = []

    async def send(self, *submits: Submit, **fields: Any) -> None:
        """Write one frame."""
        await self.call.write(GatewayFrame(submits=submits, **fields))

    async def receive(self) -> bool:
        """Read one frame; False at the end of the call."""
        frame = await self.call.read()
        if frame is grpc.aio.EOF:
            return False
        self.frames.append(frame)
        payload_at = tokens_at = 0
        events = zip(frame.streams, frame.sizes, frame.token_counts, strict=True)
        for stream, size, tokens in events:
            self.payloads[stream] += frame.payload[payload_at : payload_at + size]
            self.token_ids[stream] += frame.token_ids[tokens_at : tokens_at + 4 * tokens]
            payload_at += size
            tokens_at += 4 * tokens
        assert (payload_at, tokens_at) == (len(frame.payload), len(frame.token_ids))
        self.outcomes |= {outcome.stream: outcome for outcome in frame.outcomes}
        return True

    async def outcome(self, stream: int) -> Outcome:
        """Read until a stream has ended."""
        while stream not in self.outcomes:
            assert await self.receive(), "the session ended"
        return self.outcomes[stream]

    async def first_payload(self, stream: int) -> bytes:
        """Read until a stream has begun."""
        while not self.payloads[stream]:
            assert await self.receive(), "the session ended"
        return self.payloads[stream]


@asynccontextmanager
async def client_of(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[WorkerClient]:
    """Connect to a worker."""
    options = CHANNEL_OPTIONS
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    async with channel:
        yield WorkerClient(channel)


async def description_where_ready(client: WorkerClient) -> Description:
    """Return the description once the engine has started; the test's timeout is the limit."""
    while True:
        description = await client.describe(None, wait_for_ready=True)
        if description.ready:
            return description
        await asyncio.sleep(0.01)


async def load_where(client: WorkerClient, holds: Any) -> Load:
    """Watch the load until something holds."""
    watch = client.watch_load(10)
    async for load in watch:
        if holds(load):
            watch.cancel()
            found: Load = load
            return found
    raise AssertionError("the watch ended")
