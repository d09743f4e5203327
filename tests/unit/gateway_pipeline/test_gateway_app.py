"""The routes, as clients and operators see them."""

import asyncio
import json

import httpx
import openai
import pytest
from fake_cluster import until
from fake_workers import DEFAULT_TOKENS, Fault, text_of
from prometheus_client.parser import text_string_to_metric_families

from epd import telemetry
from epd.vocabulary import Component, Role
from epd.wire.messages import FailureKind, Phase

EPD = Role.ENCODE_PREFILL_DECODE
E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE


def error_of(response):
    return response.status_code, response.json()["error"]["code"]


# --- routing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat", "/v1/embeddings", "/requests/x", "/roster"]
)
async def test_an_unknown_path_is_404_in_openais_shape(make_cluster, path):
    cluster = await make_cluster(a=EPD)
    response = await cluster.client.get(path)
    assert error_of(response) == (404, "unknown_url")
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/chat/completions"), ("DELETE", "/v1/completions"), ("POST", "/v1/models"),
     ("PUT", "/health")],
)  # fmt: skip
async def test_another_method_is_405(make_cluster, method, path):
    cluster = await make_cluster(a=EPD)
    assert error_of(await cluster.client.request(method, path)) == (405, "method_not_allowed")


async def test_an_unknown_model_is_404(make_cluster):
    cluster = await make_cluster(a=EPD)
    response = await cluster.client.post(
        "/v1/chat/completions", json={**cluster.body(), "model": "other"}
    )
    assert error_of(response) == (404, "model_not_found")
    assert response.json()["error"]["param"] == "model"


async def test_a_body_that_is_no_json_is_400(make_cluster):
    cluster = await make_cluster(a=EPD)
    response = await cluster.client.post(
        "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
    )
    assert response.status_code == 400


async def test_a_bad_image_is_400_with_its_path(make_cluster):
    cluster = await make_cluster(a=EPD)
    response = await cluster.chat(images=["data:image/png;base64,AAAA"])
    assert error_of(response) == (400, "invalid_image")
    assert response.json()["error"]["param"] == "messages[0].content[1].image_url.url"
    assert cluster.workers["a"].phases == []


# --- health, readiness, models --------------------------------------------------------------------


async def test_health_is_200_even_without_workers(make_cluster):
    cluster = await make_cluster()
    assert (await cluster.client.get("/health")).status_code == 200
    assert (await cluster.client.head("/health")).status_code == 200


async def test_ready_tells_which_stages_have_no_pod(make_cluster):
    cluster = await make_cluster(p=P)
    response = await cluster.client.get("/ready")
    assert response.status_code == 503
    assert response.json() == {
        "ready": False, "roster_version": 1, "missing_stages": ["encode", "decode"],
    }  # fmt: skip
    await cluster.add(e=E, d=D)
    response = await cluster.client.get("/ready")
    assert (response.status_code, response.json()["missing_stages"]) == (200, [])


async def test_a_text_model_needs_no_pod_for_encode(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    for name, worker in cluster.workers.items():
        worker.multimodal = False
        await cluster.restart(name)
    assert (await cluster.client.get("/ready")).status_code == 200


async def test_models_lists_what_is_served(make_cluster):
    cluster = await make_cluster(a=EPD)
    (model,) = (await cluster.client.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("fake", "model", 1000)
    assert (await cluster.client.get("/v1/models/fake")).json() == model
    assert error_of(await cluster.client.get("/v1/models/x")) == (404, "model_not_found")


async def test_the_command_lines_model_name_wins(make_cluster):
    cluster = await make_cluster(options={"model": "mine"}, a=EPD)
    (model,) = (await cluster.client.get("/v1/models")).json()["data"]
    assert model["id"] == "mine"


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_the_clients_request_id_is_returned(make_cluster, stream):
    cluster = await make_cluster(a=EPD)
    response = await cluster.client.post(
        "/v1/chat/completions",
        json=cluster.body(stream=stream),
        headers={"x-request-id": "mine-1"},
    )
    assert response.headers["x-request-id"] == "mine-1"


async def test_every_answer_has_an_id_of_its_own(make_cluster):
    cluster = await make_cluster(a=EPD)
    answers = [await cluster.chat() for _ in range(2)]
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == 2
    assert all(identifier.startswith("chatcmpl-") for identifier in ids)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 2


# --- keys -----------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("sesame\nmellon\n")
    return path


def holder_of(key):
    return {"authorization": f"Bearer {key}"}


async def test_with_keys_only_their_holders_are_served(make_cluster, key_file):
    cluster = await make_cluster(options={"key_file": key_file}, a=EPD)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sesame"}):
        for path in ("/v1/models", "/v1/models/fake"):
            response = await cluster.client.get(path, headers=headers)
            assert error_of(response) == (401, "invalid_api_key")
        response = await cluster.client.post(
            "/v1/chat/completions", json=cluster.body(), headers=headers
        )
        assert error_of(response) == (401, "invalid_api_key")
    right = {"authorization": "bearer sesame"}
    assert (await cluster.client.get("/v1/models", headers=right)).status_code == 200
    assert (await cluster.client.get("/health")).status_code == 200


async def test_a_key_that_is_taken_out_of_the_file_stops_working_and_a_new_one_works(
    make_cluster, key_file
):
    cluster = await make_cluster({"listen": {"files_poll_s": 0.005}}, {"key_file": key_file}, a=EPD)

    async def works(key):
        answer = await cluster.client.get("/v1/models", headers=holder_of(key))
        return answer.status_code == 200

    assert await works("sesame")
    fresh = key_file.with_suffix(".new")
    fresh.write_text("mellon\nopen\n")
    fresh.replace(key_file)
    while not await works("open"):  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.005)
    assert await works("mellon")
    assert not await works("sesame")


async def test_a_key_has_so_many_requests_in_flight_and_the_others_as_many(make_cluster, key_file):
    cluster = await make_cluster({"keys": {"max_in_flight": 1}}, {"key_file": key_file}, a=EPD)
    worker = cluster.workers["a"]
    worker.gate.clear()

    async def ask(key):
        return await cluster.client.post(
            "/v1/chat/completions", json=cluster.body(), headers=holder_of(key)
        )

    held = [asyncio.create_task(ask(key)) for key in ("sesame", "mellon")]
    in_flight = {"api": "chat_completions"}
    await until(lambda: cluster.metric("epd_requests_in_flight", **in_flight) == 2)
    refused = await ask("sesame")
    assert error_of(refused) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    worker.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*held)] == [200, 200]
    assert (await ask("sesame")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_whoever_waits_for_each_answer_has_one_request_in_flight(
    make_cluster, key_file, picture, stream
):
    cluster = await make_cluster({"keys": {"max_in_flight": 1}}, {"key_file": key_file}, p=P, d=D)
    for number in range(30):
        body = cluster.body(stream=stream, images=[picture(number)])
        answer = await cluster.client.post(
            "/v1/chat/completions", json=body, headers=holder_of("sesame")
        )
        assert answer.status_code == 200


async def test_a_key_may_send_so_many_requests_a_minute(make_cluster, key_file):
    cluster = await make_cluster({"keys": {"max_per_minute": 2}}, {"key_file": key_file}, a=EPD)
    statuses = [
        (
            await cluster.client.post(
                "/v1/chat/completions", json=cluster.body(), headers=holder_of(key)
            )
        ).status_code
        for key in ("sesame", "sesame", "sesame", "mellon")
    ]
    assert statuses == [200, 200, 429, 200]


# --- metrics --------------------------------------------------------------------------------------


async def test_every_metric_of_the_gateway_is_exported_and_no_other(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    await cluster.stream()
    text = (await cluster.client.get("/metrics")).text
    exported = {family.name for family in text_string_to_metric_families(text)}
    declared = {
        metric.name.removesuffix("_total")
        for metric in telemetry.METRICS
        if metric.component is Component.GATEWAY
    }
    assert exported == declared


async def test_a_served_request_is_counted(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    await cluster.stream()
    await cluster.chat()
    api = {"api": "chat_completions"}
    await until(lambda: cluster.metric("epd_requests_in_flight", **api) == 0)
    assert cluster.metric("epd_requests_total", status="2xx", **api) == 2
    split = {"method": "EP-D", **api}
    assert cluster.metric("epd_time_to_first_token_seconds_count", images="0", **split) == 1
    assert cluster.metric("epd_time_per_output_token_seconds_count", **split) == 1
    assert cluster.metric("epd_request_duration_seconds_count", **api) == 2
    assert cluster.metric("epd_request_methods_total", method="EP-D") == 2
    assert cluster.metric("epd_accepted_total", images="0") == 2
    assert cluster.metric("epd_answered_total", images="0") == 2
    assert cluster.metric("epd_output_tokens_total", images="0") == 2 * DEFAULT_TOKENS
    assert cluster.metric("epd_worker_events_total") == 2 * DEFAULT_TOKENS
    for stage in ("prefill", "decode"):
        of_stage = {"stage": stage, "role": stage}
        assert cluster.metric("epd_stage_duration_seconds_count", **of_stage) == 2


async def test_failures_are_counted_by_class(make_cluster):
    cluster = await make_cluster(a=EPD)
    api = {"api": "chat_completions"}
    await cluster.client.post("/v1/chat/completions", json={})
    cluster.plan(*[Fault(Phase.WHOLE, FailureKind.INTERNAL)] * 2)
    assert (await cluster.chat()).status_code == 502
    assert cluster.metric("epd_requests_total", status="4xx", **api) == 1
    assert cluster.metric("epd_requests_total", status="5xx", **api) == 1
    reason = {"stage": "prefill", "reason": "internal"}
    assert cluster.metric("epd_stage_failures_total", **reason) == 2


# --- what operators see ---------------------------------------------------------------------------


async def test_a_requests_timeline_tells_who_served_what(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    seen = await cluster.stream(images=[picture(1)])
    (identifier,) = seen.ids
    record = (await cluster.admin.get(f"/requests/{identifier}")).json()
    assert [(entry["stage"], entry["pod"]) for entry in record["stages"]] == [
        ("encode", "e"), ("prefill", "p"), ("decode", "d"),
    ]  # fmt: skip
    assert (record["method"], record["status"], record["images"]) == ("E-P-D", 200, 1)
    assert (record["prompt_tokens"], record["output_tokens"]) == (7, DEFAULT_TOKENS)
    for entry in record["stages"]:
        assert entry["service_ms"] == (1 if entry["stage"] == "encode" else 2)
        assert entry["duration_ms"] is not None
        assert entry["failure"] is None
    by_request = await cluster.admin.get(f"/requests/{seen.headers['x-request-id']}")
    assert by_request.json() == record


async def test_a_timeline_shows_failed_attempts(make_cluster):
    cluster = await make_cluster(a=EPD, b=EPD)
    cluster.plan(Fault(Phase.WHOLE, FailureKind.OVERLOADED))
    seen = await cluster.stream()
    record = (await cluster.admin.get(f"/requests/{seen.ids.pop()}")).json()
    entries = [(entry["stage"], entry["attempt"], entry["failure"]) for entry in record["stages"]]
    assert entries == [("prefill", 1, "overloaded"), ("prefill", 2, None), ("decode", 2, None)]
    assert record["method"] == "EPD"


async def test_an_unknown_request_is_404(make_cluster):
    cluster = await make_cluster(a=EPD)
    assert error_of(await cluster.admin.get("/requests/nobody")) == (404, "unknown_url")


async def test_the_roster_shows_what_is_known_of_each_pod(make_cluster):
    cluster = await make_cluster(p=P, d=D)
    await until(lambda: cluster.gateway.roster.workers["d"].book.latest is not None)
    roster = (await cluster.admin.get("/roster")).json()
    assert (roster["version"], roster["cluster"], roster["models"]) == (1, "c", ["fake"])
    decode = roster["workers"][1]
    assert (decode["name"], decode["role"], decode["healthy"]) == ("d", "decode", True)
    assert decode["description"]["compatibility_hash"] == "h1"
    assert decode["load"]["decode"]["running"] == 0
    assert decode["in_flight"] == {"encode": 0, "prefill": 0, "decode": 0}


async def test_clients_cannot_reach_what_is_for_operators(make_cluster):
    cluster = await make_cluster(a=EPD)
    assert (await cluster.client.get("/roster")).status_code == 404
    assert error_of(await cluster.admin.post("/v1/chat/completions", json={}))[0] == 404


# --- the official client --------------------------------------------------------------------------


async def test_the_official_client_is_served(make_cluster, picture):
    cluster = await make_cluster(e=E, p=P, d=D)
    base_url = f"http://127.0.0.1:{cluster.gateway.public.port}/v1"
    http = httpx.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key="none", max_retries=0, http_client=http
    ) as client:
        messages = cluster.body(images=[picture(1)])["messages"]
        whole = await client.chat.completions.create(model="fake", messages=messages)
        assert whole.choices[0].message.content == text_of(5)
        stream = await client.chat.completions.create(model="fake", messages=messages, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == text_of(5)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="x", messages=messages)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": [{"type": "input_audio"}]}]
            )
        cluster.plan(
            *[Fault(phase, FailureKind.INTERNAL) for phase in (Phase.PREFILL, Phase.WHOLE)]
        )
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="fake", messages=messages)


async def test_old_http_clients_get_the_same_bytes_without_chunks(make_cluster):
    cluster = await make_cluster(a=EPD)
    body = json.dumps(cluster.body(stream=True)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.public.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = (await reader.read()).decode()
    writer.close()
    head, _, rest = answer.partition("\r\n\r\n")
    assert "chunked" not in head
    assert rest.startswith("data: {")
    assert rest.endswith("data: [DONE]\n\n")
