"""Which pods serve which stage of a request, and what each of them is sent."""

import json

import pytest
from fake_cluster import until
from fake_workers import FakeWorker, text_of

from epd.vocabulary import Role, Stage
from epd.wire.messages import Encode, Phase

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
EP, ED, PD, EPD = (
    Role.ENCODE_PREFILL,
    Role.ENCODE_DECODE,
    Role.PREFILL_DECODE,
    Role.ENCODE_PREFILL_DECODE,
)


async def test_one_pod_for_all_stages_gets_one_call(make_cluster):
    cluster = await make_cluster(a=EPD)
    seen = await cluster.stream()
    assert (seen.status, seen.text, seen.done) == (200, text_of(5), True)
    assert cluster.workers["a"].phases == ["whole"]


async def test_prefill_streams_its_token_and_decode_goes_on_from_it(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    seen = await cluster.stream()
    assert (seen.text, seen.done) == (text_of(5), True)
    assert len(seen.ids) == len(seen.created) == 1
    (prefill,) = cluster.workers["p"].works(Phase.PREFILL)
    (decode,) = cluster.workers["d"].works(Phase.DECODE)
    assert prefill.emitted_token_ids == b""
    assert decode.emitted_token_ids == (0).to_bytes(4, "little")
    assert decode.kv.worker_id == "p"
    assert decode.rendered == b"rendered"
    assert decode.response_id == prefill.response_id
    assert decode.created_s == prefill.created_s


async def test_the_first_token_does_not_wait_for_the_decode_pod(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    cluster.workers["d"].gate.clear()
    body = cluster.body(stream=True)
    async with cluster.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        assert "t0" in await anext(lines)
        assert cluster.workers["d"].works(Phase.PREFILL) == []
        cluster.workers["d"].gate.set()
        rest = [line async for line in lines]
    assert "data: [DONE]" in rest


async def test_an_answer_that_ends_with_its_first_token_needs_no_decode_pod(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    seen = await cluster.stream(max_tokens=1)
    assert (seen.text, seen.done) == ("t0 ", True)
    assert cluster.workers["d"].phases == []


async def test_a_whole_answer_comes_with_its_length(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    response = await cluster.chat()
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.json()["choices"][0]["message"]["content"] == text_of(5)
    assert cluster.workers["p"].phases == ["prefill"]
    assert cluster.workers["d"].phases == ["decode"]


async def test_a_body_without_images_is_forwarded_as_it_came(make_cluster):
    cluster = await make_cluster(a=EPD)
    body = b'{ "model":"fake",  "messages":[{"role":"user","content":"h\\u00e9"}], "x": 1e2 }'
    await cluster.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    (work,) = cluster.workers["a"].works(Phase.WHOLE)
    assert work.body == body


async def test_completions_are_served_too(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    body = {"model": "fake", "prompt": "hello", "max_tokens": 3}
    response = await cluster.client.post("/v1/completions", json=body)
    assert response.json()["choices"][0]["text"] == text_of(3)
    assert response.json()["id"].startswith("cmpl-")


async def test_pixels_go_to_the_encode_pod_only(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    seen = await cluster.stream(images=[picture(1), picture(2)])
    assert (seen.text, seen.done) == (text_of(5), True)
    encodes = cluster.workers["e"].works(Encode)
    assert len({work.image.content for work in encodes}) == 2
    (prefill,) = cluster.workers["p"].works(Phase.PREFILL)
    (decode,) = cluster.workers["d"].works(Phase.DECODE)
    for work in (prefill, decode):
        assert [image.content for image in work.images] == [b"", b""]
        assert [image.ec.worker_id for image in work.images] == ["e", "e"]
        assert not any(image.local for image in work.images)
    parts = json.loads(prefill.body)["messages"][0]["content"]
    assert [part["image_url"]["url"] for part in parts[1:]] == ["epd:image:0", "epd:image:1"]
    assert await cluster.settled()


async def test_the_same_picture_twice_is_encoded_once(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    await cluster.stream(images=[picture(1), picture(2), picture(1)])
    assert len(cluster.workers["e"].works(Encode)) == 2
    (prefill,) = cluster.workers["p"].works(Phase.PREFILL)
    first, second, third = (image.ec.identifier for image in prefill.images)
    assert first == third != second


async def test_models_that_need_pixels_get_them_at_prefill_too(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    for name, worker in cluster.workers.items():
        worker.pixels_once = False
        await cluster.restart(name)
    await cluster.stream(images=[picture(1)])
    (prefill,) = cluster.workers["p"].works(Phase.PREFILL)
    (decode,) = cluster.workers["d"].works(Phase.DECODE)
    assert prefill.images[0].content
    assert prefill.images[0].ec is not None
    assert decode.images[0].content == b""


async def test_a_pod_for_encode_and_prefill_gets_the_pixels_with_the_prefill(make_cluster, picture):
    cluster = await make_cluster(ep=EP, d=D)
    seen = await cluster.stream(images=[picture(1)])
    assert (seen.text, seen.done) == (text_of(5), True)
    assert cluster.workers["ep"].phases == ["prefill"]
    (prefill,) = cluster.workers["ep"].works(Phase.PREFILL)
    assert prefill.images[0].content
    assert prefill.images[0].ec is None
    (decode,) = cluster.workers["d"].works(Phase.DECODE)
    assert not any(image.content for image in decode.images)


async def test_a_pod_for_encode_and_decode_serves_both_around_the_prefill(make_cluster, picture):
    cluster = await make_cluster(ed=ED, p=P)
    seen = await cluster.stream(images=[picture(1)])
    assert seen.text == text_of(5)
    assert cluster.workers["ed"].phases == ["encode", "decode"]
    assert cluster.workers["p"].phases == ["prefill"]
    (decode,) = cluster.workers["ed"].works(Phase.DECODE)
    assert decode.images[0].local


async def test_an_embedding_on_the_pod_that_generates_is_local(make_cluster, picture):
    cluster = await make_cluster(e=E, pd=PD)
    await cluster.stream(images=[picture(1)])
    assert cluster.workers["e"].phases == ["encode"]
    (whole,) = cluster.workers["pd"].works(Phase.WHOLE)
    assert whole.images[0].ec.worker_id == "e"
    assert await cluster.settled()


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"best_of": 3},
        {"use_beam_search": True},
        {"prompt_logprobs": 1},
        {"echo": True, "logprobs": 1},
    ],
)
async def test_a_request_that_cannot_be_split_stays_on_one_pod(make_cluster, fields):
    cluster = await make_cluster(p=P, d=D)
    seen = await cluster.stream(**fields)
    assert seen.done
    assert cluster.workers["p"].phases == []
    assert cluster.workers["d"].phases == ["whole"]


async def test_several_prompts_stay_on_the_pod_that_offers_both_stages(make_cluster):
    cluster = await make_cluster(p=P, d=D, pd=PD)
    body = {"model": "fake", "prompt": ["a", "b"]}
    response = await cluster.client.post("/v1/completions", json=body)
    assert response.status_code == 200
    assert cluster.workers["pd"].phases == ["whole"]


async def test_images_of_a_request_that_cannot_be_split_are_still_encoded_apart(
    make_cluster, picture
):
    cluster = await make_cluster(e=E, p=P, d=D)
    await cluster.stream(n=2, images=[picture(1)])
    assert cluster.workers["e"].phases == ["encode"]
    (whole,) = cluster.workers["d"].works(Phase.WHOLE)
    assert whole.images[0].content == b""


async def test_a_stage_without_a_pod_of_its_role_overflows(make_cluster, picture):
    cluster = await make_cluster(p=P)
    seen = await cluster.stream(images=[picture(1)])
    assert seen.text == text_of(5)
    assert cluster.workers["p"].phases == ["whole"]
    assert cluster.metric("epd_overflows_total", stage="encode") == 1


async def test_processor_options_reach_the_encode(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    await cluster.stream(images=[picture(1)], mm_processor_kwargs={"max_pixels": 9})
    (encode,) = cluster.workers["e"].works(Encode)
    assert json.loads(encode.processor_options) == {"max_pixels": 9}


async def test_pods_of_different_hashes_are_not_paired(make_cluster, picture):
    cluster = await make_cluster()
    for name, role, group in (("e", E, "h1"), ("p1", P, "h1"), ("d2", D, "h2"), ("d1", D, "h1")):
        await cluster.start_worker(FakeWorker(name, role, compatibility_hash=group))
    await cluster.apply()
    for name in cluster.workers:
        await cluster.current(name)
    for _ in range(4):
        seen = await cluster.stream(images=[picture(1)])
        assert seen.text == text_of(5)
    assert cluster.workers["d2"].phases == []
    assert cluster.workers["d1"].phases == ["decode"] * 4


async def test_the_same_picture_goes_to_the_same_encode_pod(make_cluster, picture):
    cluster = await make_cluster(e1=E, e2=E, e3=E, pd=PD)
    views = [worker.view for worker in cluster.gateway.roster.workers.values()]
    for number in range(6):
        for _ in range(3):
            await cluster.stream(images=[picture(number)])
            # A pod that is thought busy is passed by: its report may come late.
            await until(lambda: not any(v.loads[Stage.ENCODE].outstanding for v in views))
    encoded_at = {
        work.image.content: name
        for name, worker in cluster.workers.items()
        for work in worker.works(Encode)
    }
    assert len(encoded_at) == 6
    for name, worker in cluster.workers.items():
        assert all(encoded_at[work.image.content] == name for work in worker.works(Encode))
