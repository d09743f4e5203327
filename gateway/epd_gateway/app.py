"""The routes: OpenAI's API, health, readiness and metrics; and those of the admin listener."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import orjson

from epd.tracing import Tracing, valid_traceparent
from epd.vocabulary import Method
from epd.wire.messages import Api
from epd_gateway.access import ApiKeys, KeyUse
from epd_gateway.answer import StreamedAnswer, WholeAnswer
from epd_gateway.context import RequestContext
from epd_gateway.errors import (
    GatewayError,
    ImagesNotSupported,
    InvalidImage,
    MethodNotAllowed,
    ModelNotFound,
    NoReadyPod,
    RouteNotFound,
)
from epd_gateway.http import JSON_HEADERS, Request
from epd_gateway.journal import Journal, RequestRecord
from epd_gateway.metrics import (
    API_NAMES,
    CONTENT_TYPE,
    OPENMETRICS,
    OPENMETRICS_TYPE,
    GatewayMetrics,
    p90_gap_s,
)
from epd_gateway.openai import CHAT_PATH, COMPLETIONS_PATH, Envelope, read_envelope
from epd_gateway.pipeline import Pipeline
from epd_gateway.request_trace import RequestTrace
from epd_gateway.roster import Roster
from epd_gateway.settings import Deadlines

logger = logging.getLogger(__name__)

Route: TypeAlias = Callable[[Request], Awaitable[None]]
Routes: TypeAlias = Mapping[str, Mapping[str, Route]]

_CLIENT_GONE: Final = 499
_ID_PREFIX: Final = {Api.CHAT_COMPLETIONS: "chatcmpl-", Api.COMPLETIONS: "cmpl-"}
_TOKEN_ID_BYTES: Final = 4
_MODELS_PATH: Final = "/v1/models"
_REQUESTS_PATH: Final = "/requests/"


class Router:
    """Finds a request's route; unknown paths and methods are answered as OpenAI does."""

    def __init__(self, routes: Routes, prefixes: Routes) -> None:
        """Serve `routes` by whole path and `prefixes` by its beginning."""
        self._routes = routes
        self._prefixes = prefixes

    async def __call__(self, request: Request) -> None:
        """Serve a request.

        Raises:
            RouteNotFound: No such path.
            MethodNotAllowed: Another method is needed.
        """
        methods = self._routes.get(request.path) or self._by_prefix(request.path)
        if methods is None:
            raise RouteNotFound(f"no such path: {request.method} {request.path[:200]}")
        method = "GET" if request.method == "HEAD" else request.method
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"{request.path} does not serve {method}; use {allowed}")
        await route(request)

    def _by_prefix(self, path: str) -> Mapping[str, Route] | None:
        for prefix, methods in self._prefixes.items():
            if path.startswith(prefix):
                return methods
        return None


class App:
    """Everything behind the two listeners."""

    def __init__(
        self,
        roster: Roster,
        pipeline: Pipeline,
        metrics: GatewayMetrics,
        journal: Journal,
        keys: ApiKeys,
        deadlines: Deadlines,
        tracing: Tracing | None = None,
    ) -> None:
        """Bind to the parts; without `tracing` no spans are made."""
        self._tracing = tracing
        self._roster = roster
        self._pipeline = pipeline
        self._metrics = metrics
        self._journal = journal
        self._keys = keys
        self._request_s = deadlines.request_s
        self._started_s = int(time.time())

    def public(self) -> Router:
        """Return the routes for clients."""
        return Router(
            {
                CHAT_PATH: {"POST": self._chat},
                COMPLETIONS_PATH: {"POST": self._completions},
                _MODELS_PATH: {"GET": self._models},
                "/health": {"GET": self._health},
                "/ready": {"GET": self._ready},
                "/metrics": {"GET": self._expose},
            },
            {f"{_MODELS_PATH}/": {"GET": self._model}},
        )

    def admin(self, more: Routes = MappingProxyType({})) -> Router:
        """Return the routes for operators, and `more`; they show request ids and loads."""
        return Router(
            {
                "/health": {"GET": self._health},
                "/ready": {"GET": self._ready},
                "/metrics": {"GET": self._expose},
                "/roster": {"GET": self._show_roster},
                **more,
            },
            {_REQUESTS_PATH: {"GET": self._show_request}},
        )

    # Generation.

    async def _chat(self, request: Request) -> None:
        await self._generate(request, Api.CHAT_COMPLETIONS)

    async def _completions(self, request: Request) -> None:
        await self._generate(request, Api.COMPLETIONS)

    async def _generate(self, request: Request, api: Api) -> None:
        arrived_s = monotonic()
        metrics = self._metrics.api[api]
        metrics.in_flight.inc()
        context: RequestContext | None = None
        use: KeyUse | None = None
        status = _CLIENT_GONE
        try:
            use = self._keys.enter(request.headers.get(b"authorization", ""))
            context = self._admit(request, api, arrived_s)
            request.describe = context.log_fields
            if (task := asyncio.current_task()) is not None:
                request.on_disconnect(partial(_cancel, task))
            await self._pipeline.serve(context)
            status = request.response.status
        except GatewayError as error:
            # Inside a stream the status line is long gone; what counts is how it ended.
            status = error.status
            raise
        except Exception:
            status = 500
            raise
        finally:
            if use is not None:
                use.leave()
            metrics.in_flight.dec()
            metrics.requests[_status_class(status)].inc()
            metrics.duration.observe(monotonic() - arrived_s)
            if context is not None:
                self._conclude(context, status)

    def _admit(self, request: Request, api: Api, arrived_s: float) -> RequestContext:
        """Check a request and make its context."""
        headers = request.headers
        envelope = read_envelope(api, request.body, headers.get(b"content-type", ""))
        request.body = b""
        self._require_model(envelope)
        if envelope.images:
            self._require_room_for_images(envelope)
        traceparent = headers.get(b"traceparent", "")
        if traceparent:
            traceparent = valid_traceparent(traceparent)
        trace = None
        trace_id = os.urandom(16).hex()
        # Where nobody keeps a trace that begins here, nothing is made and workers hear nothing.
        if self._tracing is not None and (traceparent or self._tracing.keeps(trace_id)):
            own = "" if traceparent else trace_id
            root = self._tracing.begin(
                API_NAMES[api], traceparent, outward=False, kept_trace_id=own
            )
            traceparent = root.traceparent
            trace = RequestTrace(self._tracing, root, request.id) if root.sampled else None
        record = RequestRecord(
            request.id, _ID_PREFIX[api] + trace_id, API_NAMES[api], arrived_s, int(time.time())
        )
        self._journal.add(record)
        answer = StreamedAnswer if envelope.stream else WholeAnswer
        return RequestContext(
            envelope,
            request.response,
            answer(request.response, _id_header(request)),
            record,
            trace_id,
            self._roster.next_turn(),
            arrived_s + self._request_s,
            traceparent,
            trace,
        )

    def _require_model(self, envelope: Envelope) -> None:
        models = self._roster.models
        if envelope.model in models:
            return
        if not models:
            raise NoReadyPod("no worker has said yet which model it serves; try again")
        raise ModelNotFound(
            f"the model {envelope.model[:200]!r} does not exist; here is {', '.join(models)}",
            param="model",
        )

    def _require_room_for_images(self, envelope: Envelope) -> None:
        """Check what the model takes, before anything is fetched."""
        images, most = envelope.images, self._roster.max_images
        if most is None or len(images) <= most:
            return
        if most == 0:
            raise ImagesNotSupported(
                f"the model {envelope.model!r} takes no images", param=images[0].param
            )
        raise InvalidImage(
            f"{len(images)} images; the model takes at most {most} in a request",
            param=images[most].param,
        )

    def _conclude(self, context: RequestContext, status: int) -> None:
        """Fill in the journal's record and count what was served."""
        record, answer, metrics = context.record, context.answer, self._metrics
        record.status = status
        record.ended_s = monotonic()
        record.first_token_s = answer.first_token_s
        if context.trace is not None:
            context.trace.conclude(record)
        level = logging.INFO if status >= 500 else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(level, "answered", extra={**context.log_fields(), "status": status})
        method = record.method
        if status >= 500:
            metrics.goodput.fail("1+" if context.envelope.images else "0")
        if status != 200:
            return
        if isinstance(answer, StreamedAnswer) and method is not None:
            self._conclude_stream(context, answer, method, record.ended_s)
        metrics.prompt_tokens.inc(record.prompt_tokens)
        metrics.answered[context.kind].inc()
        metrics.output_tokens[context.kind].inc(record.output_tokens)
        if method is not None:
            metrics.methods[method].inc()

    def _conclude_stream(
        self, context: RequestContext, answer: StreamedAnswer, method: Method, ended_s: float
    ) -> None:
        """Count how soon a streamed answer began, and how fast it came."""
        first_s = answer.first_token_s
        if first_s is None:
            return
        api = self._metrics.api[context.envelope.api]
        images = "1+" if context.images else "0"
        ttft_s, tpot_s = first_s - context.record.arrived_s, None
        api.ttft[images, method].observe(ttft_s, context.trace_id)
        gaps = len(answer.emitted) // _TOKEN_ID_BYTES - 1
        if gaps > 0:
            tpot_s = (ended_s - first_s) / gaps
            api.tpot[method].observe(tpot_s, context.trace_id)
        if (p90_s := p90_gap_s(answer.event_times_s)) is not None:
            api.tpot_p90.observe(p90_s)
        self._metrics.goodput.count(images, ttft_s, tpot_s)

    # What is served, and how it is.

    async def _models(self, request: Request) -> None:
        self._keys.check(request.headers.get(b"authorization", ""))
        cards = [self._card(model) for model in sorted(self._roster.models)]
        _send_json(request, {"object": "list", "data": cards})

    async def _model(self, request: Request) -> None:
        self._keys.check(request.headers.get(b"authorization", ""))
        model = request.path.removeprefix(f"{_MODELS_PATH}/")
        if model not in self._roster.models:
            raise ModelNotFound(f"the model {model[:200]!r} does not exist", param="model")
        _send_json(request, self._card(model))

    def _card(self, model: str) -> dict[str, Any]:
        lengths = [
            worker.description.max_model_len
            for worker in self._roster.workers.values()
            if worker.description is not None and worker.description.max_model_len
        ]
        return {
            "id": model,
            "object": "model",
            "created": self._started_s,
            "owned_by": "epd",
            "root": model,
            "max_model_len": min(lengths, default=None),
        }

    async def _health(self, request: Request) -> None:
        request.response.send(200, b"", b"")

    async def _ready(self, request: Request) -> None:
        readiness = self._roster.readiness()
        body = {
            "ready": readiness.ready,
            "roster_version": self._roster.version,
            "missing_stages": readiness.missing,
        }
        _send_json(request, body, 200 if readiness.ready else 503)

    async def _expose(self, request: Request) -> None:
        if OPENMETRICS in request.headers.get(b"accept", "").encode("latin-1"):
            body = self._metrics.expose(with_exemplars=True)
            request.response.send(200, OPENMETRICS_TYPE, body)
        else:
            request.response.send(200, CONTENT_TYPE, self._metrics.expose())

    # The admin listener's own.

    async def _show_roster(self, request: Request) -> None:
        roster = self._roster
        body = {
            "version": roster.version,
            "cluster": roster.cluster,
            "method": roster.method,
            "models": sorted(roster.models),
            "workers": [worker.to_json() for worker in roster.workers.values()],
        }
        _send_json(request, body)

    async def _show_request(self, request: Request) -> None:
        identifier = request.path.removeprefix(_REQUESTS_PATH)
        record = self._journal.find(identifier)
        if record is None:
            raise RouteNotFound(f"no request {identifier[:200]!r} among the last ones")
        _send_json(request, record.to_json())


def _send_json(request: Request, body: object, status: int = 200) -> None:
    request.response.send(status, JSON_HEADERS + _id_header(request), orjson.dumps(body))


def _id_header(request: Request) -> bytes:
    return b"x-request-id: %b\r\n" % request.id.encode("latin-1")


def _status_class(status: int) -> str:
    if status == _CLIENT_GONE:
        return "gone"
    return f"{status // 100}xx"


def _cancel(task: "asyncio.Task[object]") -> None:
    task.cancel()
