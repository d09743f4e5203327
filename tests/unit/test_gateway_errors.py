"""The error table: complete, in OpenAI's shape, and honest about trying again."""

import json
from collections.abc import Iterator

import pytest

from epd_gateway.errors import (
    KINDS,
    ErrorKind,
    GatewayError,
    InvalidRequest,
    NoReadyPod,
    RateLimited,
    RequestError,
    ServiceError,
    refusal_of_worker,
    sse_error_event,
)
from epd_gateway.http_messages import error_headers


def leaves(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    if not kind.__subclasses__():
        yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


def test_every_kind_of_failure_has_its_row() -> None:
    assert set(leaves(GatewayError)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_whose_fault_it_is_shows_in_the_status(kind: type[GatewayError]) -> None:
    row = KINDS[kind]
    if issubclass(kind, RequestError):
        assert 400 <= row.status < 499
        assert row.type != "server_error"
    elif issubclass(kind, ServiceError):
        assert row.status >= 500
        assert row.type == "server_error"
    else:
        assert row.status == 499


def test_the_body_is_what_openai_clients_expect() -> None:
    error = InvalidRequest("`n` must be positive", param="n")
    assert json.loads(error.to_json()) == {
        "error": {
            "message": "`n` must be positive",
            "type": "invalid_request_error",
            "param": "n",
            "code": None,
        }
    }


def test_a_refusal_of_a_worker_keeps_its_own_kind() -> None:
    error = GatewayError("no such tool", kind=ErrorKind(422, "custom_error", "no_tool"))
    assert (error.status, error.type, error.code) == (422, "custom_error", "no_tool")


def test_a_refusal_of_a_worker_is_told_in_openais_shape() -> None:
    body = {"message": "too hot", "type": "BadRequestError", "param": "temperature", "code": 400}
    error = refusal_of_worker(400, json.dumps({"error": body}).encode())
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert (error.message, error.param, error.code) == ("too hot", "temperature", None)


def test_a_code_that_is_a_word_and_the_field_of_the_work_are_kept() -> None:
    error = refusal_of_worker(400, b'{"error":{"message":"m","code":"invalid_image"}}', "a.b")
    assert (error.code, error.param) == ("invalid_image", "a.b")


@pytest.mark.parametrize(
    ("said", "told"), [(400, 400), (404, 404), (422, 400), (501, 400), (500, 400), (0, 400)]
)
def test_a_refusal_is_never_the_services_fault(said: int, told: int) -> None:
    assert refusal_of_worker(said, b"").status == told


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"error":5}', b'{"error":{}}'])
def test_a_refusal_without_words_still_says_something(body: bytes) -> None:
    assert refusal_of_worker(400, body).message == "the engine refused the request"


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (RateLimited("slow down"), b"retry-after: 1\r\n"),
        (NoReadyPod("none", retry_after_s=7), b"retry-after: 7\r\n"),
        (InvalidRequest("no"), b""),
    ],
)
def test_retry_after_is_sent_where_trying_again_helps(error: GatewayError, header: bytes) -> None:
    block = error_headers(error, "req-1")
    assert block == b"content-type: application/json\r\nx-request-id: req-1\r\n" + header


def test_an_error_inside_a_stream_is_one_event() -> None:
    event = sse_error_event(NoReadyPod("line one\nline two"))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
