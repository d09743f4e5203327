"""Pods that come, go, freeze and return while requests are in flight."""

import asyncio

import pytest
from fake_cluster import until
from fake_workers import DIE, HANG, Fault, text_of

from epd.vocabulary import Role, Stage
from epd.wire.messages import Encode, FailureKind, Load, Phase, StageLoad

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
PD, EPD = Role.PREFILL_DECODE, Role.ENCODE_PREFILL_DECODE


# --- pods that come and go ------------------------------------------------------------------------


async def test_a_pod_that_leaves_the_roster_finishes_what_it_has(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.workers["a"].gate.clear()
    cluster.workers["b"].gate.clear()
    streaming = [asyncio.ensure_future(cluster.stream()) for _ in range(2)]
    await until(lambda: all(worker.submits for worker in cluster.workers.values()))
    leaving = cluster.workers.pop("a")
    await cluster.apply()
    leaving.gate.set()
    cluster.workers["b"].gate.set()
    for seen in await asyncio.gather(*streaming):
        assert (seen.text, seen.done) == (text_of(5), True)
    await cluster.stream()
    assert len(leaving.submits) == 1
    await leaving.die()


async def test_a_pod_that_is_offered_nothing_new_finishes_what_it_has_and_may_come_back(
    make_cluster,
):
    cluster = await make_cluster(a=EPD, b=EPD)
    worker = cluster.workers["a"]
    worker.gate.clear()
    streaming = [asyncio.ensure_future(cluster.stream()) for _ in range(2)]
    await until(lambda: worker.submits)
    worker.takes_new_work = False
    await cluster.apply()
    before = len(worker.submits)
    for _ in range(4):
        assert (await cluster.stream()).done
    assert len(worker.submits) == before
    worker.gate.set()
    assert [(seen.text, seen.done) for seen in await asyncio.gather(*streaming)] == [
        (text_of(5), True)
    ] * 2
    session = cluster.gateway.roster.workers["a"].session
    worker.takes_new_work = True
    await cluster.apply()
    for _ in range(4):
        assert (await cluster.stream()).done
    assert len(worker.submits) > before
    assert cluster.gateway.roster.workers["a"].session is session


async def test_a_pod_that_restarts_is_used_again(make_cluster):
    cluster = await make_cluster(a=EPD)
    await cluster.stream()
    await cluster.restart("a")
    seen = await cluster.stream()
    assert (seen.text, seen.done) == (text_of(5), True)


async def test_a_pod_that_moves_is_followed_to_its_new_address(make_cluster):
    cluster = await make_cluster(a=EPD)
    worker = cluster.workers["a"]
    before = worker.address
    await worker.die()
    worker.address = ""
    await worker.start()
    assert worker.address != before
    await cluster.apply()
    await cluster.current("a")
    assert (await cluster.stream()).done


async def test_nothing_is_placed_on_a_pod_that_still_loads(make_cluster):
    cluster = await make_cluster(a=EPD)
    worker = cluster.workers["a"]
    worker.ready = False
    await worker.die()
    await worker.start()
    known = cluster.gateway.roster.workers["a"]
    await until(lambda: known.state == "loading")
    assert (await cluster.chat()).status_code == 503
    assert (await cluster.client.get("/ready")).status_code == 503
    worker.ready = True
    await until(lambda: known.view.healthy)
    assert (await cluster.chat()).status_code == 200


async def test_a_pod_that_says_it_is_not_ready_any_more_is_left_alone(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.workers["a"].ready = False
    await until(lambda: not cluster.view("a").healthy)
    for _ in range(3):
        await cluster.stream()
    assert cluster.workers["a"].phases == []


# --- releases to a pod that cannot be reached -----------------------------------------------------


async def release_in_vain(cluster, picture, lose_it):
    """Have an embedding of pod e released when that pod does not hear it; return its name."""
    cluster.workers["p"].gate.clear()
    streaming = asyncio.ensure_future(cluster.stream(images=[picture]))
    await until(lambda: cluster.workers["p"].works(Phase.PREFILL))
    await lose_it()
    cluster.workers["p"].gate.set()
    assert (await streaming).text == text_of(5)
    (identifier,) = cluster.workers["e"].ec
    return identifier


async def test_what_is_released_while_a_pod_is_cut_off_is_released_when_it_is_back(
    make_cluster, picture
):
    cluster = await make_cluster(e=E, p=P, d=D)
    encoder = cluster.workers["e"]

    async def lose_it():
        await encoder.cut_off()
        await until(lambda: not cluster.view("e").healthy)

    await release_in_vain(cluster, picture(1), lose_it)
    await encoder.listen()
    assert await cluster.settled()


async def test_what_is_released_to_a_pod_that_has_frozen_is_released_when_it_is_back(
    make_cluster, picture
):
    cluster = await make_cluster(e=E, p=P, d=D)
    encoder = cluster.workers["e"]

    async def lose_it():
        encoder.deaf, encoder.answers = True, False

    await release_in_vain(cluster, picture(1), lose_it)
    await until(lambda: not cluster.view("e").healthy)
    await encoder.cut_off()
    encoder.deaf, encoder.answers = False, True
    await encoder.listen()
    assert await cluster.settled()


async def test_a_process_is_not_told_to_release_what_another_one_kept(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    encoder = cluster.workers["e"]

    async def lose_it():
        await encoder.cut_off()
        await until(lambda: not cluster.view("e").healthy)

    identifier = await release_in_vain(cluster, picture(1), lose_it)
    await cluster.restart("e")
    encoder.ec.append(identifier)  # the same picture, asked for by another gateway
    assert (await cluster.stream(images=[picture(2)])).text == text_of(5)
    await until(lambda: encoder.ec == [identifier])


# --- pods that freeze -----------------------------------------------------------------------------


async def test_a_silent_pod_is_left_alone_until_it_answers(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.workers["a"].answers = False
    await until(lambda: not cluster.view("a").healthy)
    for _ in range(3):
        await cluster.stream()
    assert cluster.workers["a"].phases == []
    cluster.workers["a"].answers = True
    await until(lambda: cluster.view("a").healthy)


async def test_what_a_frozen_pod_had_goes_on_elsewhere(make_cluster):
    cluster = await make_cluster({"workers": {"lost_after_s": 1.0}}, a=EPD, b=EPD)
    faults = cluster.plan(Fault(Phase.WHOLE, HANG, 2))
    streaming = asyncio.ensure_future(cluster.stream())
    await until(lambda: not faults)
    frozen = next(worker for worker in cluster.workers.values() if worker.submits)
    frozen.answers = False
    seen = await streaming
    assert (seen.text, seen.done) == (text_of(5), True)
    assert cluster.metric("epd_stage_failures_total", stage="decode", reason="unresponsive") == 1


async def test_a_pod_that_missed_a_deadline_is_chosen_last_for_a_while(make_cluster):
    limits = {"deadlines": {"prefill_s": 1.0}, "workers": {"suspect_s": 60.0}}
    cluster = await make_cluster(limits, a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, HANG))
    assert (await cluster.stream()).done
    suspect = next(name for name in cluster.workers if cluster.view(name).suspect)
    before = len(cluster.workers[suspect].submits)
    for _ in range(4):
        assert (await cluster.stream()).done
    assert len(cluster.workers[suspect].submits) == before


async def test_trust_returns_to_a_pod_that_answers(make_cluster):
    cluster = await make_cluster({"deadlines": {"prefill_s": 1.0}}, a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, HANG))
    assert (await cluster.stream()).done
    await until(lambda: not any(cluster.view(name).suspect for name in cluster.workers))


# --- clients that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["e", "p", "d"])
async def test_a_client_that_leaves_is_forgotten_everywhere(make_cluster, picture, held):
    cluster = await make_cluster(e=E, p=P, d=D)
    worker = cluster.workers[held]
    worker.gate.clear()
    if held == "e":
        worker.faults = [Fault("encode", HANG)]
    streaming = asyncio.ensure_future(cluster.stream(images=[picture(1), picture(2)]))
    await until(lambda: worker.submits)
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)
    await until(lambda: worker.cancels)
    assert await cluster.settled()
    await until(lambda: not cluster.gateway.public.tasks)
    status = {"api": "chat_completions", "status": "gone"}
    assert cluster.metric("epd_requests_total", **status) == 1


async def test_a_client_that_leaves_between_prefill_and_decode_leaves_no_kv(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    cluster.plan(Fault(Phase.DECODE, HANG))
    body = cluster.body(stream=True)
    async with cluster.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert "t0" in await anext(response.aiter_lines())
        await until(lambda: cluster.workers["d"].submits)
        assert cluster.workers["p"].kv
    assert await cluster.settled()
    assert cluster.workers["d"].cancels


# --- handoffs that nobody takes -------------------------------------------------------------------


async def test_a_kv_cache_that_the_decode_pod_did_not_take_is_released(make_cluster):
    cluster = await make_cluster(p=P, d1=D, d2=D)
    cluster.plan(Fault(Phase.DECODE, FailureKind.OVERLOADED))
    seen = await cluster.stream()
    assert (seen.text, seen.done) == (text_of(5), True)
    assert await cluster.settled()


async def test_embeddings_are_encoded_anew_when_their_owner_died(make_cluster, picture):
    cluster = await make_cluster(e1=E, e2=E, p=P, d=D)
    cluster.workers["p"].gate.clear()
    cluster.plan(Fault(Phase.PREFILL, FailureKind.INTERNAL))
    owner_died = asyncio.ensure_future(kill_owner(cluster))
    cluster.workers["p"].gate.set()
    seen = await cluster.stream(images=[picture(1)])
    await owner_died
    assert (seen.text, seen.done) == (text_of(5), True)
    assert await cluster.settled()


async def kill_owner(cluster):
    encoders = [cluster.workers[name] for name in ("e1", "e2")]
    await until(lambda: any(worker.ec for worker in encoders))
    await next(worker for worker in encoders if worker.ec).die()


async def test_an_embedding_that_cannot_be_taken_is_made_anew(make_cluster, picture):
    cluster = await make_cluster(e=E, pd=PD)
    cluster.plan(Fault(Phase.WHOLE, FailureKind.HANDOFF_LOST))
    seen = await cluster.stream(images=[picture(1)])
    assert (seen.text, seen.done) == (text_of(5), True)
    assert len(cluster.workers["e"].works(Encode)) == 2
    assert await cluster.settled()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("images", [0, 1])
async def test_an_answer_leaves_the_only_decode_pod_when_it_loses_every_handoff(
    make_cluster, picture, images, stream
):
    cluster = await make_cluster(e=E, p=P, d=D)
    cluster.workers["d"].faults = [Fault(Phase.DECODE, FailureKind.HANDOFF_LOST) for _ in range(9)]
    pictures = [picture(number) for number in range(images)]
    if stream:
        seen = await cluster.stream(images=pictures)
        assert (seen.text, seen.done) == (text_of(5), True)
    else:
        answer = await cluster.chat(images=pictures)
        assert answer.json()["choices"][0]["message"]["content"] == text_of(5)
    assert await cluster.settled()


# --- load -----------------------------------------------------------------------------------------


async def test_work_goes_where_the_workers_say_there_is_room(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    busy = StageLoad(waiting=5, running=20)
    cluster.workers["a"].report(Load(prefill=busy, decode=busy))
    await until(lambda: cluster.view("a").loads[Stage.PREFILL].outstanding == 25)
    for _ in range(4):
        await cluster.stream()
    assert cluster.workers["a"].phases == []


async def test_equal_pods_take_turns(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD, c=EPD)
    for _ in range(9):
        await cluster.stream()
    assert [len(worker.phases) for worker in cluster.workers.values()] == [3, 3, 3]


async def test_many_streams_share_a_session_and_stay_apart(make_cluster):
    cluster = await make_cluster(p=P, d1=D, d2=D)
    seen = await asyncio.gather(*(cluster.stream(max_tokens=1 + n % 7) for n in range(60)))
    assert [one.text for one in seen] == [text_of(1 + n % 7) for n in range(60)]
    assert all(one.done for one in seen)


async def test_a_death_under_many_streams_loses_none(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD, c=EPD)
    for worker in cluster.workers.values():
        worker.gate.clear()
    streaming = [asyncio.ensure_future(cluster.stream(max_tokens=9)) for _ in range(30)]
    await until(lambda: sum(len(worker.submits) for worker in cluster.workers.values()) == 30)
    cluster.plan(Fault(Phase.DECODE, DIE, 1))
    await cluster.workers["a"].die()
    for worker in cluster.workers.values():
        worker.gate.set()
    for seen in await asyncio.gather(*streaming):
        assert (seen.text, seen.done, seen.error) == (text_of(9), True, None)


async def test_requests_that_come_together_are_spread_before_any_of_them_decodes(make_cluster):
    cluster = await make_cluster(p=P, d1=D, d2=D, d3=D)
    cluster.workers["p"].gate.clear()
    streaming = [asyncio.ensure_future(cluster.stream()) for _ in range(12)]
    await until(lambda: len(cluster.workers["p"].submits) == 12)
    cluster.workers["p"].gate.set()
    await asyncio.gather(*streaming)
    assert [len(cluster.workers[name].phases) for name in ("d1", "d2", "d3")] == [4, 4, 4]


async def test_an_offline_request_stands_in_line_until_no_prompt_is_at_work(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    prefill = cluster.workers["p"]
    prefill.gate.clear()
    online = asyncio.ensure_future(cluster.stream())
    await until(lambda: len(prefill.submits) == 1)
    offline = asyncio.ensure_future(cluster.stream(service_tier="flex"))
    await until(lambda: cluster.metric("epd_accepted_total", images="0") == 2)
    another = asyncio.ensure_future(cluster.stream())  # comes last, and goes first
    await until(lambda: len(prefill.submits) == 2)
    assert not offline.done()
    prefill.gate.set()
    for answer in (online, another, offline):
        assert (await answer).done
    assert [submit.priority for submit in prefill.submits] == [0, 0, 1]


@pytest.mark.parametrize("images", [0, 1])
async def test_pods_of_each_stage_take_turns(make_cluster, picture, images):
    cluster = await make_cluster(e=E, p1=P, p2=P, d1=D, d2=D)
    for number in range(8):
        await cluster.stream(images=[picture(number)] * images)
    for name in ("p1", "p2", "d1", "d2"):
        assert len(cluster.workers[name].phases) == 4
