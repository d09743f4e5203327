"""The front on a real socket: requests in, answers out, in order, whoever the client is."""

import asyncio
import logging
import socket
from typing import Any

import pytest

from epd_gateway.errors import ModelNotFound, NoReadyPod, UpstreamFailed
from epd_gateway.http import JSON_HEADERS, Request


async def echo(request: Request) -> None:
    body = b"%b %b?%b %b" % (
        request.method.encode(),
        request.path.encode(),
        request.query.encode(),
        request.body,
    )
    request.response.send(200, b"content-type: text/plain\r\n", body)


async def three_tokens(request: Request) -> None:
    request.response.start_stream()
    for word in (b"one ", b"two ", b"three"):
        request.response.write(word)
        await asyncio.sleep(0)
    request.response.end()


async def test_a_request_is_answered_and_the_connection_serves_the_next(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(echo))
    for number in range(3):
        client.post(b"body %d" % number, "/path?a=b")
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"POST /path?a=b body %d" % number)
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["date"].endswith("GMT")


async def test_a_stream_arrives_chunked_and_the_connection_serves_the_next(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(three_tokens))
    for _ in range(2):
        client.get()
        answer = await client.answer()
        assert answer.body == b"one two three"
        assert answer.headers["transfer-encoding"] == "chunked"


async def test_chunks_framed_by_a_worker_pass_through_untouched(
    start_front: Any, connect: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.start_stream()
        request.response.write_preframed(b"3\r\none\r\n3\r\ntwo\r\n")
        request.response.write_preframed(b"5\r\nthree\r\n")
        request.response.end(b"4\r\nfour\r\n")

    client = await connect(await start_front(handler))
    client.get()
    assert (await client.head()).status == 200
    assert await client.reader.readuntil(b"0\r\n\r\n") == (
        b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n4\r\nfour\r\n0\r\n\r\n"
    )


async def test_a_http_1_0_client_gets_the_stream_without_framing_and_a_close(
    start_front: Any, connect: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.start_stream()
        request.response.write_preframed(b"3\r\none\r\na\r\n0123456789\r\n")
        request.response.write(b"two")
        request.response.end(b"5\r\nthree\r\n")

    client = await connect(await start_front(handler))
    client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    answer = await client.answer()
    assert answer.body == b"one0123456789twothree"
    assert answer.headers["connection"] == "close"
    assert "transfer-encoding" not in answer.headers


async def test_a_client_that_asks_to_close_is_closed_after_its_answer(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(echo))
    client.get("/last", "connection: close")
    client.get("/never")
    answer = await client.answer()
    assert answer.body == b"GET /last? "
    assert answer.headers["connection"] == "close"
    assert await client.is_cut_off()


@pytest.mark.parametrize("handler", [echo, three_tokens], ids=["one-shot", "stream"])
async def test_head_gets_the_headers_and_no_body(
    start_front: Any, connect: Any, handler: Any
) -> None:
    client = await connect(await start_front(handler))
    client.request("HEAD", "/")
    client.request("HEAD", "/", "connection: close")
    assert (await client.head()).status == 200
    assert (await client.head()).headers["connection"] == "close"
    assert await client.is_closed_cleanly()


async def test_no_content_carries_no_length(start_front: Any, connect: Any) -> None:
    async def handler(request: Request) -> None:
        request.response.send(204, b"allow: POST\r\n")

    client = await connect(await start_front(handler))
    client.request("OPTIONS", "*")
    answer = await client.head()
    assert (answer.status, answer.headers["allow"]) == (204, "POST")
    assert "content-length" not in answer.headers


async def test_pipelined_requests_are_answered_in_order(start_front: Any, connect: Any) -> None:
    release = asyncio.Event()
    running = 0

    async def handler(request: Request) -> None:
        nonlocal running
        running += 1
        assert running == 1
        if request.path == "/0":
            await release.wait()
        running -= 1
        await echo(request)

    server = await start_front(handler)
    client = await connect(server)
    for number in range(5):
        client.post(b"x", f"/{number}")
    await asyncio.sleep(0.02)
    assert server.stats.requests_total == 1
    release.set()
    bodies = [(await client.answer()).body for _ in range(5)]
    assert bodies == [b"POST /%d? x" % number for number in range(5)]


async def test_a_body_is_asked_for_when_the_client_waits_to_be_asked(
    start_front: Any, connect: Any
) -> None:
    client = await connect(await start_front(echo))
    client.request("POST", "/", "content-length: 5", "expect: 100-continue")
    assert (await client.head()).status == 100
    client.send(b"hello")
    assert (await client.answer()).body == b"POST /? hello"


async def test_a_pipelined_body_is_asked_for_only_after_the_answer_before_it(
    start_front: Any, connect: Any
) -> None:
    release = asyncio.Event()

    async def handler(request: Request) -> None:
        await release.wait()
        await echo(request)

    client = await connect(await start_front(handler))
    client.get("/first")
    client.request("POST", "/second", "content-length: 2", "expect: 100-continue")
    await asyncio.sleep(0.02)
    release.set()
    assert (await client.answer()).body == b"GET /first? "
    assert (await client.head()).status == 100
    client.send(b"ok")
    assert (await client.answer()).body == b"POST /second? ok"


async def test_accepted_sockets_send_at_once_and_notice_a_dead_machine(
    start_front: Any, connect: Any
) -> None:
    server = await start_front(echo)
    client = await connect(server)
    client.get()
    await client.answer()
    [connection] = server.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


async def test_an_error_of_ours_becomes_the_answer(start_front: Any, connect: Any) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/busy":
            raise NoReadyPod("no pod serves prefill now")
        raise ModelNotFound("the model `x` does not exist", param="model")

    client = await connect(await start_front(handler))
    client.get("/", "x-request-id: mine-1")
    answer = await client.answer()
    assert answer.status == 404
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == (
        b'{"error":{"message":"the model `x` does not exist","type":"invalid_request_error",'
        b'"param":"model","code":"model_not_found"}}'
    )
    client.get("/busy")
    answer = await client.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


async def test_a_defect_is_a_500_that_leaks_nothing(
    start_front: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        raise KeyError("a secret prompt")

    client = await connect(await start_front(handler))
    client.get("/", "x-request-id: mine-2")
    answer = await client.answer()
    assert (answer.status, b"internal_error" in answer.body) == (500, True)
    assert b"secret" not in answer.body
    [record] = caplog.records
    assert vars(record)["client_request"] == "mine-2"
    assert "KeyError at test_gateway_http_server.py:" in record.getMessage()
    assert "secret" not in caplog.text


async def test_a_handler_that_forgets_to_answer_is_a_defect(
    start_front: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        pass

    client = await connect(await start_front(handler))
    client.get()
    assert (await client.answer()).status == 500
    assert "before its answer was complete" not in caplog.text
    assert "the handler failed" in caplog.text


async def test_an_error_inside_a_stream_is_an_event_and_a_close(
    start_front: Any, connect: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.start_stream()
        request.response.write(b"data: one\n\n")
        raise UpstreamFailed("the decode pod is gone")

    client = await connect(await start_front(handler))
    client.get()
    answer = await client.answer()
    assert answer.body == (
        b'data: one\n\ndata: {"error":{"message":"the decode pod is gone","type":"server_error",'
        b'"param":null,"code":"upstream_failed"}}\n\n'
    )
    assert await client.is_closed_cleanly()


async def test_a_defect_inside_a_stream_of_another_type_cuts_it_off(
    start_front: Any, connect: Any
) -> None:
    async def handler(request: Request) -> None:
        request.response.start_stream(200, JSON_HEADERS)
        request.response.write(b'{"half":')
        await asyncio.sleep(0)
        raise UpstreamFailed("the decode pod is gone")

    client = await connect(await start_front(handler))
    client.get()
    await client.head()
    assert await client.chunk() == b'{"half":'
    assert await client.is_cut_off()


async def test_a_client_that_leaves_is_told_to_the_handler(start_front: Any, connect: Any) -> None:
    told: list[str] = []
    started = asyncio.Event()
    ended = asyncio.Event()

    async def handler(request: Request) -> None:
        request.on_disconnect(lambda: told.append("callback"))
        request.response.start_stream()
        request.response.write(b"token")
        started.set()
        await request.disconnected.wait()
        request.response.write(b"nobody reads this")
        request.response.end()
        request.on_disconnect(lambda: told.append("late callback"))
        ended.set()

    server = await start_front(handler)
    client = await connect(server)
    client.get()
    await started.wait()
    client.writer.close()
    await ended.wait()
    assert told == ["callback", "late callback"]
    assert server.stats.disconnects_total == 1


async def test_a_failing_disconnect_callback_does_not_keep_the_next_from_its_call(
    start_front: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told = asyncio.Event()
    started = asyncio.Event()

    async def handler(request: Request) -> None:
        request.on_disconnect(lambda: {}["missing"])
        request.on_disconnect(told.set)
        started.set()
        await told.wait()

    client = await connect(await start_front(handler))
    client.get()
    await started.wait()
    client.writer.close()
    await told.wait()
    assert "a disconnect callback failed: KeyError" in caplog.text


async def test_a_handler_may_cancel_itself_when_the_client_leaves(
    start_front: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    started = asyncio.Event()
    released = asyncio.Event()

    async def handler(request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None
        request.on_disconnect(task.cancel)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            released.set()

    client = await connect(await start_front(handler))
    client.get()
    await started.wait()
    client.writer.close()
    await released.wait()
    assert caplog.text == ""


async def test_callbacks_stay_silent_once_the_answer_is_complete(
    start_front: Any, connect: Any, until: Any
) -> None:
    told: list[str] = []

    async def handler(request: Request) -> None:
        request.on_disconnect(lambda: told.append("callback"))
        request.response.send(200)

    server = await start_front(handler)
    client = await connect(server)
    client.get()
    await client.answer()
    client.writer.close()
    await until(lambda: not server.connections)
    assert told == []
    assert server.stats.disconnects_total == 0


async def test_a_large_answer_reaches_a_client_that_reads_late(
    start_front: Any, connect: Any
) -> None:
    body = bytes(8_000_000)

    async def handler(request: Request) -> None:
        request.response.send(200, JSON_HEADERS, body)

    client = await connect(await start_front(handler, max_client_buffer_bytes=1000))
    client.get()
    client.get()
    await asyncio.sleep(0.05)
    assert (await client.answer()).body == body
    assert (await client.answer()).body == body


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3_4", True), ("no spaces allowed", False), ("x" * 129, False)],
)
async def test_a_request_id_is_kept_only_if_it_is_sane(
    start_front: Any, connect: Any, given: str, kept: bool
) -> None:
    async def handler(request: Request) -> None:
        request.response.send(200, b"", request.id.encode())

    client = await connect(await start_front(handler))
    client.get("/", f"x-request-id: {given}")
    answer = await client.answer()
    assert (answer.body.decode() == given) is kept
    assert answer.body
