"""Roles that change while requests are in flight: each stage goes where it is offered then."""

import asyncio

import pytest
from fake_cluster import until
from fake_workers import text_of

from epd.vocabulary import Role, Stage
from epd.wire.messages import Load, Phase, StageLoad

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
PD, EPD = Role.PREFILL_DECODE, Role.ENCODE_PREFILL_DECODE


async def test_a_flip_is_followed_by_the_next_request(make_cluster):
    cluster = await make_cluster(a=P, b=D)
    await cluster.stream()
    await cluster.flip("a", D)
    await cluster.flip("b", P)
    await cluster.stream()
    assert cluster.workers["a"].phases == ["prefill", "decode"]
    assert cluster.workers["b"].phases == ["decode", "prefill"]


async def test_a_flip_touches_nothing_in_flight(make_cluster):
    cluster = await make_cluster(a=P, b=D)
    cluster.workers["b"].gate.clear()
    streaming = asyncio.ensure_future(cluster.stream())
    await until(lambda: cluster.workers["b"].submits)
    await cluster.flip("b", E)
    await cluster.flip("a", D)
    cluster.workers["b"].gate.set()
    seen = await streaming
    assert (seen.text, seen.done) == (text_of(5), True)
    assert cluster.workers["b"].cancels == []


async def test_a_decode_goes_to_whoever_has_the_role_when_its_turn_comes(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d1=D, d2=D)
    cluster.workers["p"].gate.clear()
    streaming = asyncio.ensure_future(cluster.stream(images=[picture(1)]))
    planned, other = await until_reserved(cluster, "d1", "d2")
    await cluster.flip(planned, E)
    cluster.workers["p"].gate.set()
    seen = await streaming
    assert (seen.text, seen.done) == (text_of(5), True)
    assert cluster.workers[planned].phases == []
    (decode,) = cluster.workers[other].works(Phase.DECODE)
    assert decode.kv is not None
    await assert_nothing_failed(cluster)


async def test_a_decode_that_was_to_overflow_goes_to_a_pod_that_has_gained_the_role(make_cluster):
    cluster = await make_cluster(p=P, e1=E, e2=E)
    cluster.workers["p"].gate.clear()
    cluster.workers["p"].report(Load(decode=StageLoad(running=50)))
    await until(lambda: cluster.view("p").loads[Stage.DECODE].outstanding == 50)
    streaming = asyncio.ensure_future(cluster.stream())
    planned, other = await until_reserved(cluster, "e1", "e2")
    await cluster.flip(other, D)
    cluster.workers["p"].gate.set()
    assert (await streaming).text == text_of(5)
    assert cluster.workers[planned].works(Phase.DECODE) == []
    assert len(cluster.workers[other].works(Phase.DECODE)) == 1
    await assert_nothing_failed(cluster)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_decode_stays_where_it_was_prefilled_if_only_that_pod_has_the_role(
    make_cluster, picture, stream
):
    cluster = await make_cluster(e=E, p=P, d=D)
    cluster.workers["p"].gate.clear()
    asking = cluster.stream if stream else cluster.chat
    answering = asyncio.ensure_future(asking(images=[picture(1)]))
    await until_reserved(cluster, "d")
    await cluster.flip("p", PD)
    await cluster.flip("d", E)
    cluster.workers["p"].gate.set()
    answer = await answering
    if stream:
        assert (answer.text, answer.done) == (text_of(5), True)
    else:
        assert answer.json()["choices"][0]["message"]["content"] == text_of(5)
    assert cluster.workers["d"].phases == []
    assert cluster.workers["p"].phases == ["prefill", "decode"]
    await assert_nothing_failed(cluster)


async def test_a_decode_keeps_its_pod_while_nobody_has_the_role(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    cluster.workers["p"].gate.clear()
    streaming = asyncio.ensure_future(cluster.stream())
    await until_reserved(cluster, "d")
    await cluster.flip("d", E)
    cluster.workers["p"].gate.set()
    assert (await streaming).text == text_of(5)
    assert cluster.workers["d"].phases == ["decode"]
    assert cluster.metric("epd_overflows_total", stage="decode") == 1
    await assert_nothing_failed(cluster)


async def test_a_decode_whose_pod_has_kept_its_role_is_not_placed_again(make_cluster, monkeypatch):
    cluster = await make_cluster(p=P, d=D)
    monkeypatch.delattr(type(cluster.gateway.roster), "place_decode")
    assert (await cluster.stream()).text == text_of(5)


async def until_reserved(cluster, *pods):
    """Wait until a decode has room on one of the pods; return that one, and one that is not it."""
    books = {pod: cluster.gateway.roster.workers[pod].book for pod in pods}

    def planned():
        return next((pod for pod in pods if books[pod].in_flight(Stage.DECODE)), None)

    await until(planned)
    return planned(), next((pod for pod in pods if pod != planned()), None)


async def assert_nothing_failed(cluster):
    """Check that nothing is held, that no room is left reserved, and that no stage failed."""
    assert await cluster.settled()
    workers = cluster.gateway.roster.workers.values()
    assert not any(worker.book.in_flight(stage) for worker in workers for stage in Stage)
    for name in ("epd_replays_total", "epd_stage_retries_total", "epd_stage_failures_total"):
        samples = cluster.gateway.metrics.registry.collect()
        assert not any(s.value for m in samples for s in m.samples if s.name == name), name


async def test_the_applied_version_can_be_seen(make_cluster):
    cluster = await make_cluster(a=EPD)
    await cluster.flip("a", PD)
    ready = (await cluster.client.get("/ready")).json()
    assert ready["roster_version"] == cluster.gateway.roster.version == 2
    assert (await cluster.admin.get("/ready")).json() == ready
