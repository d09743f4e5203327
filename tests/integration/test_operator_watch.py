"""The operator's watches, against an API server that fails in every way it can."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import kopf
import pytest
from aiohttp import web

from epd_operator import handlers
from epd_operator.cluster import Credentials
from epd_operator.handlers import Watch

RESOURCES = {
    "/api/v1": {"pods": "Pod", "namespaces": "Namespace", "events": "Event"},
    "/apis/apps/v1": {"deployments": "Deployment"},
    "/apis/apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    "/apis/epd.dev/v1alpha1": {"epdclusters": "EPDCluster"},
}
GROUPS = {"apps": "v1", "apiextensions.k8s.io": "v1", "epd.dev": "v1alpha1"}


def error(code):
    return json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code}}) + "\n"


def cluster(name):
    return {"metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "5"}}


def added(name):
    return json.dumps({"type": "ADDED", "object": cluster(name)}) + "\n"


class FailingServer:
    """Knows the cluster "first", and "second" once a list or watch of clusters has failed."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.has_failed = False
        self.lists = 0

    async def answer(self, request):
        path = request.path
        if path == "/api":
            return web.json_response({"versions": ["v1"]})
        if path == "/apis":
            groups = [
                {"name": name, "preferredVersion": {"version": version},
                 "versions": [{"version": version}]}
                for name, version in GROUPS.items()
            ]  # fmt: skip
            return web.json_response({"groups": groups})
        if path in RESOURCES:
            verbs = ["list", "watch", "get", "patch"]
            names = [
                {"name": plural, "singularName": "", "kind": kind, "namespaced": True,
                 "verbs": verbs}
                for plural, kind in RESOURCES[path].items()
            ]  # fmt: skip
            return web.json_response({"resources": names})
        is_watch = request.query.get("watch") == "true"
        if path.endswith("/epdclusters"):
            return await self._clusters(request, is_watch)
        return await self._hold(request, "") if is_watch else _list([])

    async def _clusters(self, request, is_watch):
        wanted, fault = self.faults[0] if self.faults else (None, None)
        if wanted == ("watch" if is_watch else "list"):
            self.faults.pop(0)
            self.has_failed = True
            if isinstance(fault, int):
                return web.json_response({"kind": "Status", "code": fault}, status=fault)
            return web.Response(text=fault)
        if is_watch:
            return await self._hold(request, added("third") if self.has_failed else "")
        self.lists += 1
        return _list([cluster(name) for name in ("first", "second")[: 1 + self.has_failed]])

    async def _hold(self, request, text):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(text.encode())
        await asyncio.Event().wait()
        return response


def _list(items):
    return web.json_response({"items": items, "metadata": {"resourceVersion": "9"}})


@asynccontextmanager
async def serving(server) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(("watch", error(410)), id="410-event"),
        pytest.param(("watch", error(500)), id="500-event"),
        pytest.param(("watch", 410), id="410-answer"),
        pytest.param(("watch", added("third")[:20]), id="cut"),
    ],
)
async def test_after_a_fault_of_a_watch_nothing_is_missed(fault, monkeypatch):
    monkeypatch.setattr(handlers, "RESTART_S", 0.01)
    await nothing_is_missed_after(fault)


async def test_a_watch_that_survives_its_cancellation_does_not_hold_up_the_others(monkeypatch):
    """One whose connection closes at that moment takes it for an error, and asks again."""
    monkeypatch.setattr(handlers, "RESTART_S", 0.01)
    monkeypatch.setattr(handlers, "KOPF_STOP_S", 0.1)
    survived = []
    spawn_tasks = kopf.spawn_tasks

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            survived.append(True)
            await asyncio.Event().wait()

    async def with_a_stubborn_one(**options):
        return [*await spawn_tasks(**options), asyncio.create_task(stubborn())]

    monkeypatch.setattr(kopf, "spawn_tasks", with_a_stubborn_one)
    await nothing_is_missed_after(("watch", 410))
    assert survived


async def nothing_is_missed_after(fault):
    server = FailingServer(fault)
    woken = {name: asyncio.Event() for name in ("first", "second", "third")}

    def wake(key):
        assert key.namespace == "ns"
        woken[key.name].set()

    async with serving(server) as url:

        async def login():
            return Credentials(url, "token", None, None, None, insecure=False)

        watch = Watch(wake, login, [])
        running = asyncio.create_task(watch.run())
        try:
            async with asyncio.timeout(50):
                for event in woken.values():
                    await event.wait()
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.wait([running])
