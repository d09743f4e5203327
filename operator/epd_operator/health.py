"""Tells Kubernetes whether the operator lives, and Prometheus what it does."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, start_http_server

from epd_operator.progress import Progress


def probe_routes(progress: Progress) -> web.Application:
    """Return `/healthz` (no work hangs) and `/readyz` (the API server was reached)."""

    async def health(request: web.Request) -> web.Response:
        work, late_s = progress.latest
        return _answer(progress.is_alive, f"{work}: nothing heard of it, {late_s:.0f} s late")

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
