"""What one client may take of the front, and what it gets when it takes more."""

import asyncio
from typing import Any

import pytest

from epd_gateway.http import JSON_HEADERS, Request, frame_chunk


async def ok(request: Request) -> None:
    request.response.send(200, JSON_HEADERS, b"%d" % len(request.body))


async def test_headers_over_the_limit_are_431(start_front: Any, connect: Any) -> None:
    client = await connect(await start_front(ok, max_header_bytes=500))
    client.get("/", "a: " + "b" * 600)
    answer = await client.answer()
    assert (answer.status, b"headers_too_large" in answer.body) == (431, True)
    assert answer.headers["connection"] == "close"
    assert await client.is_closed_cleanly()


async def test_malformed_http_is_400_in_openai_shape(start_front: Any, connect: Any) -> None:
    server = await start_front(ok)
    client = await connect(server)
    client.send(b"\x16\x03\x01 this is TLS\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 400
    assert answer.body == (
        b'{"error":{"message":"the request is not valid HTTP/1.1",'
        b'"type":"invalid_request_error","param":null,"code":"malformed_http"}}'
    )
    assert await client.is_closed_cleanly()
    assert server.stats.refusals_total == {"malformed_http": 1}


async def test_malformed_http_behind_a_request_is_answered_after_it(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(ok))
    client.get()
    client.send(b"rubbish\r\n\r\n")
    statuses = [(await client.answer()).status for _ in range(2)]
    assert statuses == [200, 400]
    assert await client.is_closed_cleanly()


async def test_a_body_over_the_limit_is_413_though_the_client_sends_it_all_first(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(ok, max_body_bytes=1000))
    client.post(bytes(3_000_000))
    await client.writer.drain()
    answer = await client.answer()
    assert (answer.status, b"body_too_large" in answer.body) == (413, True)
    assert await client.is_closed_cleanly()


async def test_a_body_over_the_limit_is_413_instead_of_100_continue(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(ok, max_body_bytes=1000))
    client.request("POST", "/", "content-length: 1001", "expect: 100-continue")
    assert (await client.answer()).status == 413


async def test_bodies_of_all_clients_share_a_limit(
    start_front: Any, connect: Any, until: Any
) -> None:
    server = await start_front(ok, max_buffered_body_bytes=1_000_000)
    first, second = await connect(server), await connect(server)
    first.request("POST", "/", "content-length: 900000")
    first.send(bytes(800_000))
    await until(lambda: server.buffered_body_bytes == 800_000)
    second.request("POST", "/", "content-length: 900000")
    second.send(bytes(300_000))
    answer = await second.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    first.send(bytes(100_000))
    assert (await first.answer()).body == b"900000"


async def test_a_connection_too_many_is_503(start_front: Any, connect: Any) -> None:
    server = await start_front(ok, max_connections=2)
    kept = [await connect(server) for _ in range(2)]
    for client in kept:
        client.get()
        assert (await client.answer()).status == 200
    extra = await connect(server)
    answer = await extra.answer()
    assert (answer.status, b"overloaded" in answer.body) == (503, True)
    assert await extra.is_closed_cleanly()
    kept[0].get()
    assert (await kept[0].answer()).status == 200


async def test_connections_far_too_many_are_cut_off(start_front: Any, connect: Any) -> None:
    server = await start_front(ok, max_connections=1, linger_s=30)
    clients = [await connect(server) for _ in range(66)]
    assert await clients[-1].is_cut_off()
    assert len(server.connections) == 65
    assert (await clients[1].answer()).status == 503


async def test_a_place_freed_is_given_to_the_next_connection(
    start_front: Any, connect: Any, until: Any
) -> None:
    server = await start_front(ok, max_connections=1)
    first = await connect(server)
    first.get()
    await first.answer()
    first.writer.close()
    await until(lambda: not server.connections)
    second = await connect(server)
    second.get()
    assert (await second.answer()).status == 200


async def test_headers_that_drip_are_408(start_front: Any, connect: Any) -> None:
    server = await start_front(ok, header_timeout_s=0.1)
    client = await connect(server)
    client.send(b"GET / HTTP/1.1\r\nhost: x\r\n")
    while not client.reader._buffer:  # type: ignore[attr-defined]
        client.send(b"a: b\r\n")
        await asyncio.sleep(0.01)
    answer = await client.answer()
    assert (answer.status, b"request_timeout" in answer.body) == (408, True)


async def test_a_connection_that_never_asks_is_closed_without_a_word(
    start_front: Any, connect: Any
) -> None:
    silent, blank = 0, 1
    server = await start_front(ok, header_timeout_s=0.1)
    clients = [await connect(server), await connect(server)]
    clients[blank].send(b"\r\n\r\n")
    assert await clients[silent].is_closed_cleanly()
    assert await clients[blank].is_closed_cleanly()
    assert server.stats.refusals_total == {}


async def test_a_body_that_stalls_is_408(start_front: Any, connect: Any) -> None:
    client = await connect(await start_front(ok, body_timeout_s=0.1))
    client.request("POST", "/", "content-length: 100000")
    client.send(bytes(1000))
    answer = await client.answer()
    assert (answer.status, b"body did not arrive" in answer.body) == (408, True)


async def test_a_body_slower_than_the_least_rate_is_408(start_front: Any, connect: Any) -> None:
    client = await connect(
        await start_front(ok, body_timeout_s=0.1, min_body_bytes_per_s=1_000_000)
    )
    client.request("POST", "/", "content-length: 100000")
    while not client.reader._buffer:  # type: ignore[attr-defined]
        client.send(b"x")
        await asyncio.sleep(0.01)
    assert (await client.answer()).status == 408


async def test_a_body_that_advances_may_take_many_windows(start_front: Any, connect: Any) -> None:
    server = await start_front(ok, body_timeout_s=0.5, min_body_bytes_per_s=1)
    client = await connect(server)
    client.request("POST", "/", "content-length: 16")
    for _ in range(16):
        client.send(b"x")
        await asyncio.sleep(0.08)
    assert (await client.answer()).body == b"16"


async def test_an_idle_connection_is_closed(start_front: Any, connect: Any) -> None:
    client = await connect(await start_front(ok, idle_timeout_s=0.05))
    client.get()
    assert (await client.answer()).status == 200
    assert await client.is_closed_cleanly()


async def test_no_deadline_runs_while_a_request_is_served(start_front: Any, connect: Any) -> None:
    async def slow(request: Request) -> None:
        await asyncio.sleep(0.3)
        await ok(request)

    server = await start_front(
        slow, idle_timeout_s=0.05, header_timeout_s=0.05, body_timeout_s=0.05
    )
    client = await connect(server)
    client.get()
    client.send(b"GET / HTTP/1.1\r\nho")
    assert (await client.answer()).status == 200


async def test_a_client_that_does_not_read_loses_its_stream_and_no_other(
    start_front: Any, connect: Any, until: Any
) -> None:
    chunk = frame_chunk(bytes(10_000))
    inside_write = False
    told: list[bool] = []
    streams: dict[str, Request] = {}
    ended = asyncio.Event()

    async def handler(request: Request) -> None:
        streams[request.path] = request
        request.on_disconnect(lambda: told.append(inside_write))
        request.response.start_stream()
        await until(lambda: request.response.finished)
        if request.path == "/slow":
            ended.set()

    server = await start_front(handler, max_client_buffer_bytes=100_000)
    slow, quick = await connect(server), await connect(server)
    slow.get("/slow")
    quick.get("/quick")
    await until(lambda: len(streams) == 2)
    sent = 0
    while not streams["/slow"].response.finished:
        inside_write = True
        for request in streams.values():
            request.response.write_preframed(chunk)
        inside_write = False
        sent += 10_000
        await asyncio.sleep(0)
        if sent == 10_000:
            await quick.head()
        assert await quick.chunk() == bytes(10_000)
    await ended.wait()
    assert told == [False]
    assert server.stats.slow_clients_total == 1
    streams["/quick"].response.end()
    assert await quick.chunk() == b""


async def test_an_answer_that_is_never_read_is_cut_off(
    start_front: Any, connect: Any, until: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.send(200, JSON_HEADERS, bytes(20_000_000))

    server = await start_front(handler, idle_timeout_s=0.1, flush_timeout_s=0.1)
    client = await connect(server)
    client.writer.transport.pause_reading()
    client.get()
    await until(lambda: server.stats.requests_total == 1)
    await until(lambda: not server.connections)
    assert server.stats.disconnects_total == 0


async def test_requests_ahead_wait_until_the_answers_before_them_are_read(
    start_front: Any, connect: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.send(200, JSON_HEADERS, bytes(20_000_000))

    server = await start_front(handler)
    client = await connect(server)
    for _ in range(4):
        client.get()
    await asyncio.sleep(0.1)
    assert server.stats.requests_total == 1
    for _ in range(4):
        assert len((await client.answer()).body) == 20_000_000
    assert server.stats.requests_total == 4


async def test_a_refused_client_that_keeps_sending_is_cut_off(
    start_front: Any, connect: Any, until: Any
) -> None:
    server = await start_front(ok, max_body_bytes=10, linger_s=0.1)
    client = await connect(server)
    client.request("POST", "/", "content-length: 1000000000")

    async def send_for_ever() -> None:
        while True:
            client.send(bytes(100_000))
            await client.writer.drain()
            await asyncio.sleep(0)

    with pytest.raises(ConnectionError):
        await send_for_ever()
    await until(lambda: not server.connections)


async def test_a_tiny_stream_flood_of_requests_ahead_is_bounded(
    start_front: Any, connect: Any
) -> None:
    release = asyncio.Event()

    async def handler(request: Request) -> None:
        await release.wait()
        await ok(request)

    server = await start_front(handler, max_pipelined_requests=4)
    client = await connect(server)
    client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2000)
    await asyncio.sleep(0.05)
    release.set()
    statuses = [(await client.answer()).status for _ in range(5)]
    assert statuses == [200, 200, 200, 200, 400]
    assert await client.is_closed_cleanly()
    assert server.stats.requests_total == 4


async def test_a_client_that_leaves_is_noticed_even_behind_requests_sent_ahead(
    start_front: Any, connect: Any
) -> None:
    gone = asyncio.Event()
    last = asyncio.Event()

    async def handler(request: Request) -> None:
        if request.path == "/first":
            request.response.send(200)
            return
        request.on_disconnect(gone.set)
        last.set()
        await gone.wait()

    client = await connect(await start_front(handler))
    first = b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n"
    client.send(first + b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    await last.wait()
    client.writer.close()
    await gone.wait()
