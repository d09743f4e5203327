"""The writer of an answer over a link that only records: what goes out in which write."""

from collections.abc import Callable

import pytest

from epd_gateway.errors import InternalError
from epd_gateway.http import Request, ResponseWriter, frame_chunk, render_headers
from epd_gateway.http_messages import strip_chunk_framing


class RecordingLink:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.done: list[bool] = []
        self.aborted = False

    def sender(self) -> Callable[[bytes], None]:
        return self.writes.append

    def date_header(self) -> bytes:
        return b"date: now\r\n"

    def keeps_alive(self) -> bool:
        return True

    def response_done(self, *, close: bool) -> None:
        self.done.append(close)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def link() -> RecordingLink:
    return RecordingLink()


@pytest.fixture
def response(link: RecordingLink) -> ResponseWriter:
    return ResponseWriter(link, "req-1", bodyless=False, chunked=True)


def test_headers_leave_together_with_the_first_write(
    link: RecordingLink, response: ResponseWriter
) -> None:
    response.start_stream(200, b"a: b\r\n")
    assert link.writes == []
    response.write_preframed(b"3\r\none\r\n")
    response.write_preframed(b"3\r\ntwo\r\n")
    assert link.writes == [
        b"HTTP/1.1 200 OK\r\ndate: now\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        b"3\r\ntwo\r\n",
    ]


def test_the_last_piece_leaves_together_with_the_end(
    link: RecordingLink, response: ResponseWriter
) -> None:
    response.start_stream()
    response.write(b"one")
    response.end(b"3\r\ntwo\r\n")
    assert link.writes[1:] == [b"3\r\ntwo\r\n0\r\n\r\n"]
    assert link.done == [False]


def test_an_empty_stream_is_headers_and_end_in_one_write(
    link: RecordingLink, response: ResponseWriter
) -> None:
    response.start_stream()
    response.end()
    assert len(link.writes) == 1
    assert link.writes[0].endswith(b"\r\n\r\n0\r\n\r\n")


def test_empty_data_does_not_end_the_stream(link: RecordingLink, response: ResponseWriter) -> None:
    response.start_stream()
    response.write(b"")
    response.write_preframed(b"")
    assert link.writes == []
    response.write(b"one")
    response.write(b"")
    assert len(link.writes) == 1


def test_writes_after_the_end_are_dropped(link: RecordingLink, response: ResponseWriter) -> None:
    response.start_stream()
    response.end()
    before = list(link.writes)
    response.write(b"late")
    response.write_preframed(b"4\r\nlate\r\n")
    response.end()
    response.fail(InternalError("late"))
    assert link.writes == before
    assert link.done == [False]


def test_a_second_answer_is_refused(response: ResponseWriter) -> None:
    response.send(200)
    with pytest.raises(RuntimeError, match="already started"):
        response.send(200)
    with pytest.raises(RuntimeError, match="already started"):
        response.start_stream()


def test_streaming_without_a_start_is_refused(response: ResponseWriter) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        response.write(b"one")
    with pytest.raises(RuntimeError, match="not started"):
        response.end()


def test_an_answer_nobody_waits_for_is_dropped(
    link: RecordingLink, response: ResponseWriter
) -> None:
    response.detach()
    response.send(200, b"", b"body")
    assert link.writes == []
    assert link.done == []


def test_an_unknown_status_has_no_phrase(link: RecordingLink, response: ResponseWriter) -> None:
    response.send(599)
    assert link.writes[0].startswith(b"HTTP/1.1 599 \r\n")


@pytest.mark.parametrize("field", [("a", "b\r\nc: d"), ("a\n", "b"), ("", "b"), ("a", "b\0")])
def test_a_header_cannot_smuggle_in_another(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="control character"):
        render_headers([field])


def test_headers_are_rendered_in_order() -> None:
    assert render_headers([("b", "1"), ("a", "2")]) == b"b: 1\r\na: 2\r\n"


def test_chunk_framing_is_stripped_from_several_chunks() -> None:
    assert strip_chunk_framing(b"1\r\na\r\n10\r\n" + b"\r\n" * 8 + b"\r\n0\r\n\r\n") == (
        b"a" + b"\r\n" * 8
    )


def test_a_request_made_in_a_test_needs_no_connection() -> None:
    request = Request("GET", "/health")
    assert (request.query, request.body, dict(request.headers)) == ("", b"", {})


def test_a_chunk_states_its_length_in_hexadecimal() -> None:
    assert frame_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
