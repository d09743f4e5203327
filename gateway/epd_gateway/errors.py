"""Everything the gateway answers that is not the model's answer.

Each class is one kind of failure; `KINDS` at the end is the only table from kinds to HTTP statuses,
OpenAI error types and codes. OpenAI answers 400 where others answer 422; so do we.

A `RequestError` the client can mend, a `ServiceError` it can only try again. The table of codes in
docs/errors.md is made from here: what a class's docstring says is what a user reads.

A worker's own refusal (its engine validates what the gateway does not) is made a `GatewayError`
of an explicit `kind` by `refusal_of_worker`. docs/errors.md also shows what is sent for what.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How one kind of failure looks from outside.

    Attributes:
        status: HTTP status.
        type: OpenAI's `error.type`.
        code: OpenAI's `error.code`; None where OpenAI sends null.
        retry_after_s: Seconds for `Retry-After`; None where trying again is pointless or immediate.
    """

    status: int
    type: str
    code: str | None = None
    retry_after_s: int | None = None


class GatewayError(Exception):
    """A failure that can be shown to the client.

    `message` says what was wrong, where, and what to do; it never quotes a prompt or a key.

    Attributes:
        status: HTTP status.
        type: OpenAI's `error.type`.
        code: OpenAI's `error.code`, or None.
        param: Path of the offending field, such as `messages[0].content[1].image_url.url`.
        message: One line for a person.
        retry_after_s: Seconds for `Retry-After`, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        kind: ErrorKind | None = None,
    ) -> None:
        super().__init__(message)
        row = kind or KINDS[type(self)]
        self.status = row.status
        self.type = row.type
        self.code = row.code
        self.param = param
        self.message = message
        self.retry_after_s = row.retry_after_s if retry_after_s is None else retry_after_s

    def to_json(self) -> bytes:
        """Return the body of the error answer, as OpenAI shapes it."""
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": self.type,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


class RequestError(GatewayError):
    """The client can mend it."""


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of its range."""


class UnsupportedParameter(RequestError):
    """A field that nothing here can follow."""


class UnsupportedValue(RequestError):
    """A value of a known field that nothing here can follow."""


class InvalidImage(RequestError):
    """An image is malformed, truncated, too large, not of the type it claims, or one too many."""


class ImagesNotSupported(RequestError):
    """The model takes no images."""


class ImageNotFetched(RequestError):
    """An image URL could not be read."""


class ImageUrlRefused(RequestError):
    """Policy forbids fetching that image URL."""


class MalformedHttp(RequestError):
    """The bytes are not HTTP/1.1."""


class NotAuthenticated(RequestError):
    """No API key, or a wrong one."""


class RouteNotFound(RequestError):
    """No such path."""


class ModelNotFound(RequestError):
    """No such model."""


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""


class RequestTimeout(RequestError):
    """The request did not arrive in time."""


class BodyTooLarge(RequestError):
    """The body is over the limit."""


class UnsupportedContentType(RequestError):
    """The body is not declared as JSON."""


class RateLimited(RequestError):
    """This client asks for more than its share."""


class HeadersTooLarge(RequestError):
    """The request line and headers are over the limit."""


class ClientGone(GatewayError):
    """Nobody is left to answer; logged and counted, never sent."""


class ServiceError(GatewayError):
    """The client can only try again."""


class InternalError(ServiceError):
    """A defect of the gateway."""


class UpstreamFailed(ServiceError):
    """A worker failed, and another attempt did too."""


class Overloaded(ServiceError):
    """A limit of the gateway, or of every worker, is reached."""


class NoReadyPod(ServiceError):
    """No pod can take a stage now."""


class ShuttingDown(ServiceError):
    """This gateway is about to end."""


class DeadlineExceeded(ServiceError):
    """A stage did not finish before its deadline."""


_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

KINDS: Final[Mapping[type[GatewayError], ErrorKind]] = {
    InvalidRequest: ErrorKind(400, _INVALID),
    UnsupportedParameter: ErrorKind(400, _INVALID, "unsupported_parameter"),
    UnsupportedValue: ErrorKind(400, _INVALID, "unsupported_value"),
    InvalidImage: ErrorKind(400, _INVALID, "invalid_image"),
    ImagesNotSupported: ErrorKind(400, _INVALID, "images_not_supported"),
    ImageNotFetched: ErrorKind(400, _INVALID, "image_not_fetched"),
    ImageUrlRefused: ErrorKind(400, _INVALID, "image_url_refused"),
    MalformedHttp: ErrorKind(400, _INVALID, "malformed_http"),
    NotAuthenticated: ErrorKind(401, _INVALID, "invalid_api_key"),
    RouteNotFound: ErrorKind(404, _INVALID, "unknown_url"),
    ModelNotFound: ErrorKind(404, _INVALID, "model_not_found"),
    MethodNotAllowed: ErrorKind(405, _INVALID, "method_not_allowed"),
    RequestTimeout: ErrorKind(408, _INVALID, "request_timeout"),
    BodyTooLarge: ErrorKind(413, _INVALID, "body_too_large"),
    UnsupportedContentType: ErrorKind(415, _INVALID, "unsupported_content_type"),
    RateLimited: ErrorKind(429, "rate_limit_error", "rate_limit_exceeded", retry_after_s=1),
    HeadersTooLarge: ErrorKind(431, _INVALID, "headers_too_large"),
    ClientGone: ErrorKind(499, _INVALID, "client_gone"),
    InternalError: ErrorKind(500, _SERVER, "internal_error"),
    UpstreamFailed: ErrorKind(502, _SERVER, "upstream_failed"),
    Overloaded: ErrorKind(503, _SERVER, "overloaded", retry_after_s=1),
    NoReadyPod: ErrorKind(503, _SERVER, "no_ready_pod", retry_after_s=2),
    ShuttingDown: ErrorKind(503, _SERVER, "shutting_down", retry_after_s=1),
    DeadlineExceeded: ErrorKind(504, _SERVER, "deadline_exceeded"),
}

ENGINE_CODES: Final[Mapping[str, str]] = {
    "context_length_exceeded": "The prompt does not fit the model's context.",
}
"""Codes that only an engine gives, and when; like all that it refuses they come with a 400."""


def refusal_of_worker(status: int, body: bytes, param: str | None = None) -> GatewayError:
    """Return what the client is told where a worker refused its request.

    Clients choose what to do by the status: a refusal is always one of their mistakes, never a
    5xx, which some would send again.

    Args:
        status: As the worker says.
        body: OpenAI error JSON of the worker.
        param: The field that the worker was given as the whole of its work, if it names none.
    """
    told = _told_by(body)
    code, message, named = told.get("code"), told.get("message"), told.get("param")
    kind = ErrorKind(
        status if 400 <= status < 499 and status != 422 else 400,
        _INVALID,
        code if isinstance(code, str) else None,
    )
    return GatewayError(
        message if isinstance(message, str) and message else "the engine refused the request",
        param=named if isinstance(named, str) else param,
        kind=kind,
    )


def _told_by(body: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return {}
    return told if isinstance(told, dict) else {}


def sse_error_event(error: GatewayError) -> bytes:
    """Return the server-sent event that tells of `error` inside a stream that has begun.

    The stream ends after it, without `[DONE]`: its absence is how a client knows the answer is
    not whole.
    """
    return b"data: " + error.to_json() + b"\n\n"
