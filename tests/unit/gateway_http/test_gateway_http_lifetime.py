"""Starting and stopping: graceful for those who are served, quick for everyone else; TLS."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from epd_gateway.http import HttpServer, Request

# Made for this test with openssl, valid for a hundred years, trusted by nobody.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUFIiA1Fxn5o3w0o2sgriuk2t137kwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTEwMDQ0MFoYDzIxMjYxMDI4
MTAwNDQwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASeVp9G/2lFylwNG1rN4G3R7626Xw0Uqr+5qSj71HrbkMlvM5CLp5h2
Hq8t7A5zvZz99ntPGU7irS375YZmVzwEo28wbTAdBgNVHQ4EFgQUGNscraqMa6XO
TG9y+vj/75WyEFAwHwYDVR0jBBgwFoAUGNscraqMa6XOTG9y+vj/75WyEFAwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIgDX85kLA7r3QW2VFwzc+V4PHSizTnesZWiMtaAkkY9m4CIQCR
7AMCZE2jFjieK5G34HDmbun/nKMWpLkHI/hJEkX+eQ==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgGjpmVsm9sX66Au1L
zpf3t/PVD+dETHM90JObL26lf2ahRANCAASeVp9G/2lFylwNG1rN4G3R7626Xw0U
qr+5qSj71HrbkMlvM5CLp5h2Hq8t7A5zvZz99ntPGU7irS375YZmVzwE
-----END PRIVATE KEY-----
"""


class Streams:
    """A handler whose streams end when told."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.finish = asyncio.Event()
        self.cancelled = False

    async def __call__(self, request: Request) -> None:
        request.response.start_stream()
        request.response.write(b"first ")
        self.started.set()
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        request.response.write(b"last")
        request.response.end()


async def test_stop_lets_a_stream_in_flight_finish(start_front: Any, connect: Any) -> None:
    streams = Streams()
    server = await start_front(streams)
    client = await connect(server)
    client.get()
    await streams.started.wait()
    stopping = asyncio.create_task(server.stop(grace_s=30))
    await asyncio.sleep(0.02)
    assert not stopping.done()
    streams.finish.set()
    assert (await client.answer()).body == b"first last"
    assert await client.is_closed_cleanly()
    await stopping
    assert not streams.cancelled


async def test_stop_lets_a_handler_tidy_up_after_its_answer(start_front: Any, connect: Any) -> None:
    tidied = asyncio.Event()
    proceed = asyncio.Event()

    async def handler(request: Request) -> None:
        request.response.send(200)
        await proceed.wait()
        tidied.set()

    server = await start_front(handler)
    client = await connect(server)
    client.get()
    await client.answer()
    stopping = asyncio.create_task(server.stop(grace_s=30))
    assert await client.is_closed_cleanly()
    assert not stopping.done()
    proceed.set()
    await stopping
    assert tidied.is_set()


async def test_stop_closes_idle_connections_and_takes_no_new_ones(
    start_front: Any, connect: Any
) -> None:
    streams = Streams()
    server = await start_front(streams)
    idle, busy = await connect(server), await connect(server)
    busy.get()
    await streams.started.wait()
    port = server.port
    stopping = asyncio.create_task(server.stop(grace_s=30))
    assert await idle.is_closed_cleanly()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    streams.finish.set()
    await stopping


async def test_stop_cuts_off_what_outlasts_the_grace(start_front: Any, connect: Any) -> None:
    streams = Streams()
    server = await start_front(streams)
    client = await connect(server)
    client.get()
    await streams.started.wait()
    await server.stop(grace_s=0.05)
    assert streams.cancelled
    assert server.tasks == set()
    assert b"0\r\n\r\n" not in await rest_of(client.reader)


async def test_a_request_that_arrives_while_stopping_is_the_last_of_its_connection(
    start_front: Any, connect: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.send(200, b"", request.body)

    server = await start_front(handler)
    client = await connect(server)
    client.request("POST", "/", "content-length: 2")
    await asyncio.sleep(0.02)
    stopping = asyncio.create_task(server.stop(grace_s=30))
    await asyncio.sleep(0)
    client.send(b"ok")
    answer = await client.answer()
    assert (answer.body, answer.headers["connection"]) == (b"ok", "close")
    await stopping


async def test_a_request_on_its_way_at_a_stop_is_still_answered_and_the_last(
    start_front: Any, connect: Any
) -> None:
    streams = Streams()
    server = await start_front(streams)
    client, idle = await connect(server), await connect(server)
    client.get()
    await streams.started.wait()
    stopping = asyncio.create_task(server.stop(grace_s=30))
    await asyncio.sleep(0)
    streams.finish.set()
    for each in (client, idle):
        # Nothing has told these clients that their connections are to end.
        if each is client:
            assert "connection" not in (await each.answer()).headers
        each.get()
        assert (await each.answer()).headers["connection"] == "close"
        assert await each.is_closed_cleanly()
    await stopping


async def test_stop_before_start_does_nothing() -> None:
    server = HttpServer(Streams())
    await server.stop(0)
    with pytest.raises(RuntimeError, match="does not listen"):
        assert server.port


async def test_a_bound_socket_can_be_given(connect: Any) -> None:
    async def handler(request: Request) -> None:
        request.response.send(200, b"", b"here")

    sock = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(handler)
    await server.start(sock=sock)
    client = await connect(server)
    client.get()
    assert (await client.answer()).body == b"here"
    await server.stop(0)


async def test_two_servers_share_a_port_when_asked_to(start_front: Any) -> None:
    first, second = HttpServer(Streams()), HttpServer(Streams())
    await first.start("127.0.0.1", 0, reuse_port=True)
    await second.start("127.0.0.1", first.port, reuse_port=True)
    assert first.port == second.port
    await first.stop(0)
    await second.stop(0)


async def test_streams_and_refusals_work_over_tls(tmp_path: Path) -> None:
    (tmp_path / "certificate.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    trust = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    streams = Streams()
    streams.finish.set()
    server = HttpServer(streams)
    await server.start("127.0.0.1", 0, ssl=context)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trust)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"first last" in (await reader.readuntil(b"0\r\n\r\n")).replace(b"\r\n4\r\n", b"")
    writer.write(b"rubbish\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 400 Bad Request\r\n"
    writer.transport.abort()
    await server.stop(0)


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
