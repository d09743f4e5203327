"""Tells Kubernetes whether the operator lives, and Prometheus what it does."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, start_http_server

STUCK_S: Final = 180.0
"""The loop that looks after all clusters turns every minute, whatever the API server does."""


class Progress:
    """When the operator's main loop last turned, and what it may be asked."""

    def __init__(self, clock_s: Callable[[], float] = monotonic) -> None:
        self._clock_s = clock_s
        self._turned_s = clock_s()
        self.has_reached_server = False

    def turn(self) -> None:
        """Note that the loop turns."""
        self._turned_s = self._clock_s()

    @property
    def since_turn_s(self) -> float:
        """Seconds since the loop last turned."""
        return self._clock_s() - self._turned_s

    @property
    def is_alive(self) -> bool:
        """The loop turned lately."""
        return self.since_turn_s < STUCK_S


def probe_routes(progress: Progress) -> web.Application:
    """Return `/healthz` (the loop turns) and `/readyz` (the API server was reached)."""

    async def health(request: web.Request) -> web.Response:
        return _answer(progress.is_alive, "the main loop does not turn")

    async def ready(request: web.Request) -> web.Response:
        return _answer(progress.has_reached_server, "the API server was not reached yet")

    app = web.Application()
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", ready)
    return app


@contextmanager
def serving_metrics(registry: CollectorRegistry, port: int) -> Iterator[None]:
    """Serve `/metrics` at all addresses of the pod, in a thread of its own.

    A main loop that is stuck would not come to say so.
    """
    every = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - Prometheus comes so
    server, thread = start_http_server(port, every, registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def serve(app: web.Application, port: int) -> web.AppRunner:
    """Serve at all addresses of the pod; `cleanup` the result."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _answer(holds: bool, otherwise: str) -> web.Response:
    return web.Response(text="ok\n" if holds else f"{otherwise}\n", status=200 if holds else 503)
