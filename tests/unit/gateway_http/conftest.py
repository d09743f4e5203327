"""A front on a real socket with small limits, and a client that sends exactly what it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from epd_gateway.http import Handler, HttpServer
from epd_gateway.settings import HttpLimits

QUICK = {"sweep_interval_s": 0.01}


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test here on the loop we ship with, and on the one that Python ships with."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def get(self, path: str = "/", *headers: str) -> None:
        self.request("GET", path, *headers)

    def post(self, body: bytes, path: str = "/", *headers: str) -> None:
        self.request("POST", path, f"content-length: {len(body)}", *headers)
        self.send(body)

    def request(self, method: str, path: str, *headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "host: test", *headers, "", ""]
        self.send("\r\n".join(lines).encode())

    async def head(self) -> Answer:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:] if line]
        return Answer(int(lines[0].split()[1]), dict(pairs), b"")

    async def answer(self) -> Answer:
        answer = await self.head()
        if "content-length" in answer.headers:
            answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
        elif answer.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                answer.body += chunk
        else:
            answer.body = await self.reader.read()
        return answer

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def is_closed_cleanly(self) -> bool:
        return await self.reader.read() == b""

    async def is_cut_off(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[HttpServer], Awaitable[RawClient]]
StartFront = Callable[..., Awaitable[HttpServer]]


@pytest.fixture
def until() -> Until:
    async def wait(condition: Callable[[], bool]) -> None:
        for _ in range(4000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the condition never came true")

    return wait


@pytest.fixture
async def start_front() -> AsyncIterator[StartFront]:
    servers = []

    async def start(handler: Handler, **limits: Any) -> HttpServer:
        server = HttpServer(handler, HttpLimits(**{**QUICK, **limits}))
        await server.start("127.0.0.1", 0)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop(0)
        assert (server.connections, server.tasks) == (set(), set())
        assert server.buffered_body_bytes == 0


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients = []

    async def open_client(server: HttpServer) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", server.port))
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.writer.transport.abort()
