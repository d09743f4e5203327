"""Everything the gateway answers that is not the model's answer.

Each class is one kind of failure; `KINDS` at the end is the only table from kinds to HTTP statuses,
OpenAI error types and codes. OpenAI answers 400 where others answer 422; so do we.

- GatewayError: a failure with a status, and a body in the shape of OpenAI's errors.

  - RequestError: the client can mend it.

    - InvalidRequest: a field is missing, unknown, of the wrong type or out of its range.
    - PromptTooLong: prompt and answer do not fit the model's context.
    - InvalidImage: an image is malformed, truncated, too large, or not of the type it claims.
    - ImageNotFetched: an image URL could not be read.
    - ImageUrlRefused: policy forbids fetching that image URL.
    - MalformedHttp: the bytes are not HTTP/1.1.
    - NotAuthenticated: no API key, or a wrong one.
    - NotPermitted: the key may not do this.
    - RouteNotFound: no such path.
    - ModelNotFound: no such model.
    - MethodNotAllowed: the path exists, but not with this method.
    - RequestTimeout: the request did not arrive in time.
    - BodyTooLarge: the body is over the limit.
    - UnsupportedContentType: the body is not JSON.
    - RateLimited: this client asks for more than its share.
    - HeadersTooLarge: the request line and headers are over the limit.

  - ClientGone: nobody is left to answer; logged and counted, never sent.
  - ServiceError: the client can only try again.

    - InternalError: a defect of ours.
    - UpstreamFailed: a worker failed, and another attempt did too.
    - Overloaded: a limit of the gateway is reached.
    - NoReadyPod: no pod can take a stage now.
    - ShuttingDown: this gateway process is about to end.
    - DeadlineExceeded: a stage did not finish before its deadline.

A worker's own refusal (its engine validates what the gateway does not) is made a `GatewayError`
of an explicit `kind` by `refusal_of_worker`. docs/errors.md shows what is sent for what.
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
        code: str | None = None,
        retry_after_s: int | None = None,
        kind: ErrorKind | None = None,
    ) -> None:
        super().__init__(message)
        row = kind or KINDS[type(self)]
        self.status = row.status
        self.type = row.type
        self.code = code or row.code
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
    """A field is missing, unknown, of the wrong type or out of its range."""


class PromptTooLong(RequestError):
    """Prompt and answer do not fit the model's context."""


class InvalidImage(RequestError):
    """An image is malformed, truncated, too large, or not of the type it claims."""


class ImageNotFetched(RequestError):
    """An image URL could not be read."""


class ImageUrlRefused(RequestError):
    """Policy forbids fetching that image URL."""


class MalformedHttp(RequestError):
    """The bytes are not HTTP/1.1."""


class NotAuthenticated(RequestError):
    """No API key, or a wrong one."""


class NotPermitted(RequestError):
    """The key may not do this."""


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
    """The body is not JSON."""


class RateLimited(RequestError):
    """This client asks for more than its share."""


class HeadersTooLarge(RequestError):
    """The request line and headers are over the limit."""


class ClientGone(GatewayError):
    """Nobody is left to answer; logged and counted, never sent."""


class ServiceError(GatewayError):
    """The client can only try again."""


class InternalError(ServiceError):
    """A defect of ours."""


class UpstreamFailed(ServiceError):
    """A worker failed, and another attempt did too."""


class Overloaded(ServiceError):
    """A limit of the gateway is reached."""


class NoReadyPod(ServiceError):
    """No pod can take a stage now."""


class ShuttingDown(ServiceError):
    """This gateway process is about to end."""


class DeadlineExceeded(ServiceError):
    """A stage did not finish before its deadline."""


_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

KINDS: Final[Mapping[type[GatewayError], ErrorKind]] = {
    InvalidRequest: ErrorKind(400, _INVALID),
    PromptTooLong: ErrorKind(400, _INVALID, "context_length_exceeded"),
    InvalidImage: ErrorKind(400, _INVALID, "invalid_image"),
    ImageNotFetched: ErrorKind(400, _INVALID, "image_not_fetched"),
    ImageUrlRefused: ErrorKind(400, _INVALID, "image_url_refused"),
    MalformedHttp: ErrorKind(400, _INVALID, "malformed_http"),
    NotAuthenticated: ErrorKind(401, _INVALID, "invalid_api_key"),
    NotPermitted: ErrorKind(403, _INVALID, "not_permitted"),
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
    kind = ErrorKind(status if 400 <= status < 499 and status != 422 else 400, _INVALID)
    return GatewayError(
        message if isinstance(message, str) and message else "the engine refused the request",
        param=named if isinstance(named, str) else param,
        code=code if isinstance(code, str) else None,
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
