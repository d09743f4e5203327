"""Workers that fail, hang, die or refuse: what the client sees, and what the others are left with.

An answer is always whole and in order, or it says that it is not.
"""

import asyncio
import json

import pytest
from fake_cluster import until
from fake_workers import DIE, ENCODE, HANG, Fault, text_of

from epd.vocabulary import Role
from epd.wire.messages import Encode, FailureKind, Phase

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
EP, PD, EPD = Role.ENCODE_PREFILL, Role.PREFILL_DECODE, Role.ENCODE_PREFILL_DECODE

ANY_FAILURE = [
    FailureKind.OVERLOADED,
    FailureKind.INTERNAL,
    FailureKind.SHUTTING_DOWN,
    FailureKind.HANDOFF_LOST,
    FailureKind.INCOMPATIBLE,
    HANG,
    DIE,
]
SHORT = {"deadlines": {"encode_s": 1.0, "prefill_s": 1.0, "decode_idle_s": 1.0}}


def alive(cluster):
    return [worker for worker in cluster.workers.values() if worker._server is not None]


# --- failures that another attempt makes good ---------------------------------------------------


@pytest.mark.parametrize("how", ANY_FAILURE)
async def test_a_failed_encode_is_tried_again_elsewhere(make_cluster, picture, how):
    cluster = await make_cluster(SHORT, e1=E, e2=E, pd=PD)
    cluster.plan(Fault(ENCODE, how))
    seen = await cluster.stream(images=[picture(1)])
    assert (seen.status, seen.text, seen.done) == (200, text_of(5), True)
    assert len(cluster.workers["e1"].works(Encode)) == 1
    assert len(cluster.workers["e2"].works(Encode)) == 1
    assert cluster.metric("epd_stage_retries_total", stage="encode") == 1
    assert await cluster.settled()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("how", ANY_FAILURE)
async def test_a_failed_prefill_is_tried_again(make_cluster, picture, how, stream):
    cluster = await make_cluster(SHORT, e=E, p1=P, p2=P, d=D)
    cluster.plan(Fault(Phase.PREFILL, how))
    await expect_answer(cluster, stream, images=[picture(1)])
    prefills = [work for worker in cluster.workers.values() for work in worker.works(Phase.PREFILL)]
    assert len(prefills) == 2
    assert cluster.metric("epd_stage_retries_total", stage="prefill") == 1
    assert await cluster.settled()


@pytest.mark.parametrize("after_tokens", [0, 2])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("how", ANY_FAILURE)
async def test_an_answer_goes_on_elsewhere_when_its_decode_fails(
    make_cluster, picture, how, after_tokens, stream
):
    cluster = await make_cluster(SHORT, e=E, p=P, d1=D, d2=D)
    cluster.plan(Fault(Phase.DECODE, how, after_tokens))
    await expect_answer(cluster, stream, images=[picture(1)])
    assert cluster.metric("epd_replays_total") == 1
    assert await cluster.settled()


@pytest.mark.parametrize("how", ANY_FAILURE)
@pytest.mark.parametrize("after_tokens", [0, 1, 3])
async def test_a_whole_generation_goes_on_elsewhere(make_cluster, picture, how, after_tokens):
    cluster = await make_cluster(SHORT, a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, how, after_tokens))
    seen = await cluster.stream(images=[picture(1)])
    assert (seen.text, seen.done, seen.error) == (text_of(5), True, None)
    assert len(seen.ids) == len(seen.created) == 1
    assert await cluster.settled()


async def expect_answer(cluster, stream, **fields):
    if stream:
        seen = await cluster.stream(**fields)
        assert (seen.status, seen.text, seen.done, seen.error) == (200, text_of(5), True, None)
        assert len(seen.ids) == len(seen.created) == 1
    else:
        answer = await cluster.chat(**fields)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == text_of(5)


async def test_a_replay_says_what_the_client_has_had(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, DIE, 3))
    await cluster.stream()
    (replay,) = [w for worker in cluster.workers.values() for w in worker.works(Phase.DECODE)]
    (first,) = [w for worker in cluster.workers.values() for w in worker.works(Phase.WHOLE)]
    assert replay.kv is None
    assert len(replay.emitted_token_ids) == 3 * 4
    assert (replay.response_id, replay.created_s) == (first.response_id, first.created_s)


async def test_two_pods_may_die_under_one_stream(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD, c=EPD)
    cluster.plan(Fault(Phase.WHOLE, DIE, 2), Fault(Phase.DECODE, DIE, 1))
    seen = await cluster.stream()
    assert (seen.text, seen.done) == (text_of(5), True)
    assert len(alive(cluster)) == 1


async def test_a_decode_pod_that_died_before_its_turn_is_not_waited_for(make_cluster):
    cluster = await make_cluster(p=P, d1=D, d2=D)
    cluster.workers["p"].gate.clear()
    streaming = asyncio.ensure_future(cluster.stream())
    await until(lambda: cluster.workers["p"].works(Phase.PREFILL))
    await cluster.workers["d1"].die()
    await until(lambda: not cluster.view("d1").healthy)
    cluster.workers["p"].gate.set()
    seen = await streaming
    assert (seen.text, seen.done) == (text_of(5), True)
    assert cluster.workers["d2"].phases == ["decode"]


# --- failures that are the end --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        (FailureKind.INTERNAL, 502, "upstream_failed"),
        (FailureKind.OVERLOADED, 503, "overloaded"),
        (FailureKind.SHUTTING_DOWN, 503, "no_ready_pod"),
        (HANG, 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("work", [ENCODE, Phase.PREFILL])
async def test_after_the_last_attempt_the_client_is_told(
    make_cluster, picture, work, how, status, code
):
    cluster = await make_cluster(SHORT, e1=E, e2=E, p1=P, p2=P, d=D)
    cluster.plan(Fault(work, how), Fault(work, how))
    answer = await cluster.chat(images=[picture(1)])
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await cluster.settled()


async def test_what_a_worker_refuses_the_client_hears_in_the_workers_words(make_cluster):
    cluster = await make_cluster(p1=P, p2=P, d=D)
    words = json.dumps({"error": {"message": "no such thing", "type": "x", "code": 400}}).encode()
    cluster.plan(Fault(Phase.PREFILL, FailureKind.REFUSED, status=404, body=words))
    answer = await cluster.chat()
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "no such thing",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert answer.headers["x-request-id"]
    assert cluster.metric("epd_stage_retries_total", stage="prefill") == 0


async def test_a_refused_image_is_the_clients_mistake(make_cluster, picture):
    cluster = await make_cluster(e1=E, e2=E, pd=PD)
    words = b'{"error":{"message":"bad image"}}'
    cluster.plan(Fault(ENCODE, FailureKind.REFUSED, status=400, body=words))
    answer = await cluster.chat(images=[picture(1)])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "bad image"
    assert answer.json()["error"]["param"] == "messages[0].content[1].image_url.url"
    assert await cluster.settled()


async def test_a_stream_that_cannot_be_saved_says_so_and_is_not_done(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD, c=EPD, d=EPD)
    cluster.plan(
        Fault(Phase.WHOLE, FailureKind.INTERNAL, 1),
        Fault(Phase.DECODE, FailureKind.INTERNAL, 1),
        Fault(Phase.DECODE, FailureKind.INTERNAL, 1),
    )
    seen = await cluster.stream()
    assert (seen.status, seen.text, seen.done) == (200, text_of(3), False)
    assert seen.error["code"] == "upstream_failed"
    assert await cluster.settled()


async def test_several_choices_cannot_be_continued(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, DIE, 2))
    seen = await cluster.stream(n=2)
    assert (seen.text, seen.done) == (text_of(2), False)
    assert seen.error["code"] == "upstream_failed"


async def test_several_choices_are_tried_again_before_the_first_byte(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, DIE))
    seen = await cluster.stream(n=2)
    assert (seen.text, seen.done) == (text_of(5), True)


async def test_a_request_has_a_deadline_of_its_own(make_cluster):
    cluster = await make_cluster({"deadlines": {"request_s": 0.3}}, a=EPD)
    cluster.plan(Fault(Phase.WHOLE, HANG, 2))
    seen = await cluster.stream()
    assert (seen.text, seen.done) == (text_of(2), False)
    assert seen.error["code"] == "deadline_exceeded"
    answer = await hang_whole(cluster)
    assert answer.status_code == 504


async def hang_whole(cluster):
    cluster.plan(Fault(Phase.WHOLE, HANG))
    return await cluster.chat()


async def test_the_first_token_has_a_deadline_over_all_attempts(make_cluster):
    limits = {"deadlines": {"first_token_s": 0.3, "prefill_s": 5.0}}
    cluster = await make_cluster(limits, a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, HANG), Fault(Phase.WHOLE, HANG))
    seen = await cluster.client.post("/v1/chat/completions", json=cluster.body(stream=True))
    assert seen.status_code == 504
    assert len(cluster.workers["a"].phases) + len(cluster.workers["b"].phases) == 1


async def test_without_any_worker_requests_are_refused(make_cluster):
    cluster = await make_cluster()
    await cluster.apply()
    answer = await cluster.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_ready_pod")
