"""The receiving half without a socket: bytes in, requests or refusals out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epd_gateway.errors import (
    BodyTooLarge,
    GatewayError,
    HeadersTooLarge,
    MalformedHttp,
    MethodNotAllowed,
)
from epd_gateway.http import Request
from epd_gateway.http_reader import Receiving, RequestReader
from epd_gateway.settings import HttpLimits

HOST = b"host: x\r\n"
POST = b"POST /v1/x?q=1 HTTP/1.1\r\nhost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\n"
)
JAVA = (
    b"POST /j HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\ncontent-length: 5\r\n"
    b"host: x\r\nhttp2-settings: AAE\r\nupgrade: h2c\r\n\r\nhello"
)
GET = b"GET /g HTTP/1.1\r\nhost: x\r\n\r\n"


def read(data: bytes, **limits: int) -> list[Request]:
    reader = RequestReader(HttpLimits(**limits))  # type: ignore[arg-type]
    reader.feed(data)
    return list(reader.ready)


def refused(data: bytes, **limits: int) -> GatewayError:
    reader = RequestReader(HttpLimits(**limits))  # type: ignore[arg-type]
    with pytest.raises(GatewayError) as caught:
        reader.feed(data)
    assert reader.done
    assert not reader.ready
    return caught.value


def test_a_request_is_read_whole() -> None:
    [request] = read(POST)
    assert (request.method, request.path, request.query) == ("POST", "/v1/x", "q=1")
    assert request.headers == {b"host": "x", b"content-length": "5"}
    assert request.body == b"hello"
    assert request.keep_alive


def test_chunks_are_joined_and_trailers_are_no_headers() -> None:
    [request] = read(CHUNKED)
    assert request.body == b"abc0123456789"
    assert b"x-trailer" not in request.headers


def test_repeated_headers_are_joined() -> None:
    [request] = read(b"GET / HTTP/1.1\r\nhost: x\r\nAccept: a\r\naccept: b\r\n\r\n")
    assert request.headers[b"accept"] == "a, b"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a%20b/%C3%A9?x=%20", "/a b/é", "x=%20"),
        (b"/a?", "/a", ""),
        (b"/a?b?c", "/a", "b?c"),
        (b"http://other:80/a?b", "/a", "b"),
        (b"http://other", "/", ""),
        (b"*", "*", ""),
    ],
)
def test_the_target_is_split_into_path_and_query(target: bytes, path: str, query: str) -> None:
    [request] = read(b"OPTIONS " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 5\r\n\r\nhello",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_an_offered_upgrade_is_ignored_and_the_body_is_read(rest: bytes) -> None:
    head = b"POST /p HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n"
    [first, second] = read(head + rest + GET)
    assert (first.path, first.body, first.headers[b"upgrade"]) == ("/p", b"hello", "h2c")
    assert second.path == "/g"


def test_a_web_socket_handshake_is_an_ordinary_get() -> None:
    [request] = read(
        b"GET /w HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    assert request.path == "/w"


def test_nothing_is_taken_after_a_request_that_closes() -> None:
    [request] = read(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" + GET + b"\0\0")
    assert not request.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"hello\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/3.7\r\nhost: x\r\n\r\n",
        b"GET / HTTP/0.9\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    assert type(refused(data)) is MalformedHttp


def test_connect_is_refused() -> None:
    error = refused(b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n")
    assert type(error) is MethodNotAllowed


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 2000,
        b"GET /" + b"a" * 2000,
    ],
    ids=["long value", "many", "long target", "unfinished value", "unfinished target"],
)
def test_a_head_over_the_limit_is_refused(head: bytes) -> None:
    assert type(refused(head, max_header_bytes=1000)) is HeadersTooLarge


def test_a_head_that_grows_over_the_limit_bit_by_bit_is_refused() -> None:
    reader = RequestReader(HttpLimits(max_header_bytes=1000))
    reader.feed(b"GET / HTTP/1.1\r\nhost: x\r\na: ")
    for _ in range(97):
        reader.feed(b"b" * 10)
    with pytest.raises(HeadersTooLarge):
        reader.feed(b"b" * 10)


def test_a_body_does_not_count_as_head() -> None:
    big = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n" + bytes(5000)
    reader = RequestReader(HttpLimits(max_header_bytes=1000))
    reader.feed(big[:100])
    reader.feed(big[100:] + GET[:10])
    assert reader.receiving is Receiving.HEAD
    reader.feed(GET[10:])
    assert [request.path for request in reader.ready] == ["/", "/g"]


def test_a_body_announced_over_the_limit_is_refused_before_it_comes() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n"
    assert type(refused(head, max_body_bytes=1000)) is BodyTooLarge
    assert read(head.replace(b"1001", b"1000") + bytes(1000), max_body_bytes=1000)


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes() -> None:
    reader = RequestReader(HttpLimits(max_body_bytes=1000))
    reader.feed(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    reader.feed(b"3e8\r\n" + bytes(1000) + b"\r\n")
    with pytest.raises(BodyTooLarge):
        reader.feed(b"1\r\na")


@pytest.mark.parametrize("junk", [b"1;" + b"x" * 100 + b"\r\na\r\n", b"0\r\nt: " + b"x" * 100])
def test_chunks_of_framing_without_content_are_refused(junk: bytes) -> None:
    reader = RequestReader(HttpLimits(max_header_bytes=1000))
    reader.feed(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    reader.feed(junk)
    more = junk if junk.startswith(b"1") else b"x" * len(junk)
    with pytest.raises(MalformedHttp, match="next to no content"):
        reader.feed(more * 12)


def test_chunks_of_one_byte_are_accepted() -> None:
    reader = RequestReader(HttpLimits(max_header_bytes=1000))
    reader.feed(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(2000):
        reader.feed(b"1\r\na\r\n")
    reader.feed(b"0\r\n\r\n")
    assert reader.ready[0].body == b"a" * 2000


def test_more_requests_ahead_than_allowed_are_refused_after_those_allowed() -> None:
    reader = RequestReader(HttpLimits(max_pipelined_requests=3))
    with pytest.raises(MalformedHttp, match="more than 3"):
        reader.feed(GET * 5)
    assert len(reader.ready) == 3


@given(data=st.data())
def test_how_the_bytes_are_split_changes_nothing(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from([POST, CHUNKED, JAVA, GET]), max_size=6))
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = RequestReader(HttpLimits())
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])
    seen = [(r.method, r.path, r.query, r.headers, r.body) for r in reader.ready]
    alone = [(r.method, r.path, r.query, r.headers, r.body) for p in parts for r in read(p)]
    assert seen == alone
    assert reader.receiving is Receiving.BETWEEN
    assert reader.total_body_bytes == sum(len(body) for *_, body in alone)


@given(st.binary(max_size=200))
def test_any_bytes_are_requests_or_a_refusal(junk: bytes) -> None:
    reader = RequestReader(HttpLimits())
    status = None
    try:
        reader.feed(b"POST / HTTP/1.1\r\n" + HOST + junk)
    except GatewayError as error:
        status = error.status
    assert status in (None, 400, 405, 413, 431)
