"""Worker processes as `epd up` starts them, one gateway's session with one, and its work."""

import asyncio
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio

from epd.wire.messages import (
    IMAGE_REFERENCE_PREFIX,
    Api,
    Description,
    Encode,
    Failure,
    GatewayFrame,
    Generate,
    Load,
    Outcome,
    Phase,
    Prefilled,
    Submit,
    WorkerFrame,
)
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient


class WorkerProcess:
    """A worker with a simulated engine on a free port."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""
        self.log = b""

    async def until_listening(self) -> None:
        """Wait until the port is known."""
        self.address = (await self.until_said(rb"listens on (\S+)"))[1].decode()

    async def until_said(self, pattern: bytes) -> re.Match[bytes]:
        """Wait for a line of the log."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log += line
            if found := re.search(pattern, line):
                return found
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


def chat(images: int = 0, **fields: object) -> Generate:
    """Return a streamed chat as a gateway submits it; its body takes `fields`."""
    content: list[object] = [
        {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}{index}"}}
        for index in range(images)
    ]
    content.append({"type": "text", "text": "What is it?"})
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 16, **fields}
    return Generate(
        Phase.WHOLE, Api.CHAT_COMPLETIONS, json.dumps(body).encode(), stream=True, http_chunks=True
    )


class Pod:
    """A worker process with one session."""

    def __init__(self, worker: WorkerProcess, client: WorkerClient) -> None:
        self.worker = worker
        self.client = client
        self.session = GatewaySession(client)
        self._streams = 0

    async def begin(self, work: Encode | Generate) -> int:
        """Submit one piece of work; return its stream."""
        self._streams += 1
        await self.session.send(Submit(self._streams, f"r{self._streams}", work))
        return self._streams

    async def run(self, work: Encode | Generate) -> tuple[Outcome, bytes, bytes]:
        """Return the outcome, the bytes and the tokens of one piece of work."""
        stream = await self.begin(work)
        outcome = await self.session.outcome(stream)
        return outcome, self.session.payloads[stream], self.session.token_ids[stream]

    async def failure(self, work: Encode | Generate) -> Failure:
        """Return how one piece of work fails."""
        result = (await self.run(work))[0].result
        assert isinstance(result, Failure)
        return result


async def enter(stack: AsyncExitStack, name: str, *arguments: str) -> Pod:
    """Run a worker for the time of `stack`; return it once it is ready."""
    worker = await stack.enter_async_context(worker_process("--name", name, *arguments))
    client = await stack.enter_async_context(client_of(worker.address))
    await description_where_ready(client)
    return Pod(worker, client)


async def prefill(pod: Pod, work: Generate) -> tuple[Generate, bytes]:
    """Run the prefill of a whole; return the decode that goes on, and the bytes so far."""
    outcome, payload, tokens = await pod.run(replace(work, phase=Phase.PREFILL))
    assert isinstance(outcome.result, Prefilled)
    result = outcome.result
    decode = replace(
        work, phase=Phase.DECODE, kv=result.kv, rendered=result.rendered, emitted_token_ids=tokens
    )
    return decode, payload
