"""The watch of pods, against an API server that fails in every way it can."""

import asyncio
from contextlib import aclosing

import pytest
from scripted_api_server import bookmark, events, pods, scripted_api_server, status
from worker_pods import worker_pod

from epd_gateway.pod_watch import Change, PodEvents, PodList, PodWatch
from epd_gateway.settings import KubernetesWatch

QUICK = KubernetesWatch(watch_s=1, grace_s=0.01, request_timeout_s=20, retry_max_s=0.001)
A, B = worker_pod("a", version=5), worker_pod("b", version=12)
IDLE = events(held=True)


async def changes_of(server, count, settings=QUICK):
    """Return the first few changes."""
    watch = PodWatch(server, "", "x=y", settings)
    async with aclosing(watch.changes()) as changes:
        return [await anext(changes) for _ in range(count)]


async def test_pods_are_listed_and_then_watched_from_there():
    async with scripted_api_server(
        pods(A, version="10"), events(("ADDED", B), bookmark("13"), held=True)
    ) as server:
        listed, added, marked = await changes_of(server, 3)
    assert listed == PodList([A], "10")
    assert added == PodEvents([(Change.ADDED, B)], "12")
    assert marked == PodEvents([], "13")
    asked, watched = server.asked
    assert asked.path == "/api/v1/namespaces/here/pods"
    assert asked.query["labelSelector"] == "x=y"
    assert asked.headers["authorization"] == "Bearer first"
    assert (watched.is_watch, watched.query["resourceVersion"]) == (True, "10")
    assert watched.query["timeoutSeconds"] == "1"


async def test_a_long_list_comes_in_pages():
    async with scripted_api_server(pods(A, more="next"), pods(B, version="20"), IDLE) as server:
        (listed,) = await changes_of(server, 1)
    assert listed == PodList([A, B], "20")
    assert server.asked[1].query["continue"] == "next"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(status(410, "too old"), id="410-answer"),
        pytest.param(events(("ERROR", {"code": 410, "message": "too old"})), id="410-event"),
        pytest.param(events(("ERROR", {"code": 500})), id="500-event"),
        pytest.param(events(("ADDED", {"metadata": {}})), id="no-version"),
        pytest.param(events(cut=True), id="cut"),
        pytest.param(status(401), id="401"),
        pytest.param(status(403), id="403"),
        pytest.param(status(429, retry_after="0"), id="429"),
        pytest.param(status(500), id="500"),
        pytest.param(pods(A), id="a-list-for-a-watch"),
        pytest.param(events(), id="ends-at-once"),
        pytest.param(events(held=True), id="silent"),
    ],
)
async def test_after_a_fault_of_a_watch_all_pods_are_listed_anew(fault):
    async with scripted_api_server(
        pods(A), fault, pods(B, version="30"), events(bookmark("31"), held=True)
    ) as server:
        first, again, marked = await changes_of(server, 3)
    assert (first, again) == (PodList([A], "10"), PodList([B], "30"))
    assert marked == PodEvents([], "31")
    assert [asked.is_watch for asked in server.asked] == [False, True, False, True]


@pytest.mark.parametrize(
    "fault",
    [
        status(401),
        status(403),
        status(503),
        pods(A, more="next"),  # and the script goes on with a list of no pods
    ],
)
async def test_a_list_that_fails_is_tried_again(fault):
    later = [status(500)] if fault.status == 200 else []
    async with scripted_api_server(fault, *later, pods(B), IDLE) as server:
        (listed,) = await changes_of(server, 1)
    assert listed == PodList([B], "10")


async def test_a_watch_that_ends_when_it_was_asked_to_goes_on_where_it_ended(monkeypatch):
    monkeypatch.setattr("epd_gateway.pod_watch._TOO_SOON_S", 0)
    async with scripted_api_server(
        pods(A), events(("MODIFIED", B), bookmark("15")), events(bookmark("16"), held=True)
    ) as server:
        await changes_of(server, 4)
    assert [asked.query.get("resourceVersion") for asked in server.asked] == [None, "10", "15"]


async def test_a_token_that_was_exchanged_is_read_again():
    async with scripted_api_server(pods(A), status(401), pods(A), IDLE) as server:
        watch = PodWatch(server, "", "x=y", QUICK)
        async with aclosing(watch.changes()) as changes:
            await anext(changes)
            server.token = "second"
            await anext(changes)
    tokens = [asked.headers["authorization"] for asked in server.asked]
    assert tokens[0] == "Bearer first"
    assert tokens[-1] == "Bearer second"


async def test_a_failure_is_told_of_once_and_so_is_its_end(caplog):
    caplog.set_level("INFO", "epd_gateway")
    async with scripted_api_server(
        status(403, "pods is forbidden"), status(403, "pods is forbidden"), pods(A), IDLE
    ) as server:
        await changes_of(server, 1)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("epd")]
    assert told == [
        "pods: 403: pods is forbidden; the last good roster stays",
        "pods: followed again",
    ]


async def test_it_says_whether_it_follows():
    async with scripted_api_server(pods(A), status(500), status(500), pods(A), IDLE) as server:
        watch = PodWatch(server, "", "x=y", QUICK)
        assert not watch.is_following
        async with aclosing(watch.changes()) as changes:
            await anext(changes)
            assert watch.is_following
            later = asyncio.ensure_future(anext(changes))
            while watch.is_following:  # noqa: ASYNC110 - a gauge has no event
                await asyncio.sleep(0)
            await later
            assert watch.is_following


async def test_an_api_server_that_is_not_there_is_waited_for(unused_tcp_port):
    async with scripted_api_server(pods(A), IDLE) as server:
        port, server.port = server.port, unused_tcp_port
        watch = PodWatch(server, "", "x=y", QUICK)
        async with aclosing(watch.changes()) as changes:
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            server.port = port
            assert await waiting == PodList([A], "10")
