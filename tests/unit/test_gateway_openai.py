"""The envelope: what the gateway checks itself, and what it leaves to the workers."""

import json

import pytest

from epd.wire.messages import Api
from epd_gateway.errors import GatewayError, InvalidRequest
from epd_gateway.openai import read_envelope

CHAT, COMPLETIONS = Api.CHAT_COMPLETIONS, Api.COMPLETIONS
PIXEL = "data:image/png;base64,AAAA"


def chat(*parts, **fields):
    content = list(parts) if parts else "hello"
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return json.dumps(body).encode()


def image(url=PIXEL, **extra):
    return {"type": "image_url", "image_url": {"url": url}, **extra}


TEXT = {"type": "text", "text": "hi"}


def refusal(api, body, content_type="application/json"):
    with pytest.raises(GatewayError) as error:
        read_envelope(api, body, content_type)
    return error.value


# --- what passes ----------------------------------------------------------------------------------


def test_a_text_body_passes_byte_for_byte():
    body = b'{"model":"m",\n "messages":[{"role":"user","content":"\\u00e9"}],"temperature":1e0}'
    envelope = read_envelope(CHAT, body)
    assert envelope.body is body
    assert envelope.images == ()
    assert envelope.splittable
    assert not envelope.stream


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "hot"},
        {"tools": 5},
        {"response_format": {"type": "json_schema"}},
        {"stop": [1, 2]},
        {"unknown": None},
        {"max_tokens": 0},
        {"n": 0},
    ],
)
def test_everything_else_is_for_the_worker_to_judge(fields):
    assert read_envelope(CHAT, chat(**fields)).model == "m"


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_messages_that_hold_no_parts_are_for_the_worker_to_judge(role):
    for message in ({"role": role}, {"role": role, "content": None}, {"role": role, "content": []}):
        body = json.dumps({"model": "m", "messages": [message]}).encode()
        assert read_envelope(CHAT, body).images == ()


def test_images_become_references_in_their_order():
    first, second = "https://example.com/1.png", PIXEL
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [TEXT, image(first)]},
            {"role": "tool", "content": [image(second, detail="low")]},
        ],
    }
    envelope = read_envelope(CHAT, json.dumps(body).encode())
    assert [(found.url, found.param) for found in envelope.images] == [
        (first, "messages[1].content[1].image_url.url"),
        (second, "messages[2].content[0].image_url.url"),
    ]
    forwarded = json.loads(envelope.body)
    assert forwarded["messages"][1]["content"][1]["image_url"]["url"] == "epd:image:0"
    assert forwarded["messages"][2]["content"][0]["image_url"]["url"] == "epd:image:1"
    assert forwarded["messages"][0] == body["messages"][0]


def test_processor_options_are_told_with_images_only():
    options = {"max_pixels": 5}
    with_image = read_envelope(CHAT, chat(image(), mm_processor_kwargs=options))
    assert json.loads(with_image.processor_options) == options
    assert read_envelope(CHAT, chat(mm_processor_kwargs=options)).processor_options == b""


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"best_of": 2}, {"use_beam_search": True}, {"prompt_logprobs": 0},
     {"echo": True, "logprobs": 0}],
)  # fmt: skip
def test_what_cannot_be_split_is_marked(fields):
    assert not read_envelope(CHAT, chat(**fields)).splittable


@pytest.mark.parametrize(
    "fields", [{"n": 1}, {"n": None}, {"best_of": 1}, {"echo": True}, {"logprobs": True}]
)
def test_what_looks_similar_can_be_split(fields):
    assert read_envelope(CHAT, chat(**fields)).splittable


@pytest.mark.parametrize(
    ("prompt", "splittable"),
    [("text", True), ([1, 2, 3], True), (["a"], False), (["a", "b"], False), ([[1], [2]], False)],
)
def test_several_prompts_cannot_be_split(prompt, splittable):
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert read_envelope(COMPLETIONS, body).splittable is splittable


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json; charset=utf-8", "Application/JSON", "application/problem+json"],
)
def test_json_may_be_declared_in_several_ways(content_type):
    assert read_envelope(CHAT, chat(), content_type).model == "m"


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(content_type):
    assert refusal(CHAT, chat(), content_type).status == 415


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"null", None),
        (b"\xff{}", None),
        (b'{"model": NaN}', None),
        (b"[" * 5000, None),
        (b'{"messages":[{}]}', "model"),
        (b'{"model":5,"messages":[{}]}', "model"),
        (b'{"model":null,"messages":[{}]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":"hi"}', "messages"),
        (b'{"model":"m","messages":{}}', "messages"),
        (b'{"model":"m","messages":[{}],"stream":"yes"}', "stream"),
        (b'{"model":"m","messages":[{}],"stream":1}', "stream"),
        (b'{"model":"m","messages":[{"role":"user"}],"n":"2"}', "n"),
        (b'{"model":"m","messages":[{"role":"user"}],"n":true}', "n"),
        (b'{"model":"m","messages":[{"role":"user"}],"n":1.5}', "n"),
        (b'{"model":"m","messages":[7]}', "messages[0]"),
        (b'{"model":"m","messages":[null]}', "messages[0]"),
        (b'{"model":"m","messages":[{"content":"x"}]}', "messages[0].role"),
        (b'{"model":"m","messages":[{"role":["user"]}]}', "messages[0].role"),
        (b'{"model":"m","messages":[{"role":"user"},{"role":"wizard"}]}', "messages[1].role"),
        (b'{"model":"m","messages":[{"role":"user","content":{}}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"user","content":5}]}', "messages[0].content"),
    ],
)
def test_a_broken_envelope_is_refused_with_its_field(body, param):
    error = refusal(CHAT, body)
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize("levels", [300, 1020, 5000])
def test_json_that_is_nested_too_deeply_is_no_defect_of_ours(levels):
    deep = json.loads("[" * 200 + "]" * 200)
    body = chat(image(), metadata=deep).replace(b"[" * 200, b"[" * levels)
    assert refusal(CHAT, body.replace(b"]" * 200, b"]" * levels)).status == 400


@pytest.mark.parametrize("prompt", [None, [], {}, 5, True])
def test_a_completion_needs_a_prompt(prompt):
    error = refusal(COMPLETIONS, json.dumps({"model": "m", "prompt": prompt}).encode())
    assert error.param == "prompt"


@pytest.mark.parametrize(
    ("part", "where"),
    [
        (5, ""),
        (None, ""),
        ([], ""),
        ({}, ".type"),
        ("hi", ""),
        ({"type": "text"}, ".text"),
        ({"type": "text", "text": None}, ".text"),
        ({"type": 3}, ".type"),
        ({"image_url": "https://example.com"}, ".type"),
        ({"type": "input_audio", "input_audio": {}}, ".type"),
        ({"type": "video_url", "video_url": {"url": "x"}}, ".type"),
        ({"type": "image_embeds"}, ".type"),
        ({"type": "image_url"}, ".image_url"),
        ({"type": "image_url", "image_url": "https://example.com"}, ".image_url"),
        ({"type": "image_url", "image_url": {"url": None}}, ".image_url"),
        ({"type": "image_url", "image_url": {}}, ".image_url"),
    ],
)
def test_a_part_that_is_no_text_and_no_image_is_refused_with_its_path(part, where):
    error = refusal(CHAT, chat(TEXT, part))
    assert (error.status, error.param) == (400, f"messages[0].content[1]{where}")


@pytest.mark.parametrize("api", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": "text"}, "modalities"),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
        ({"ec_transfer_params": {}}, "ec_transfer_params"),
    ],
)
def test_what_would_be_ignored_or_is_ours_is_refused_by_name(api, fields, param):
    body = {"model": "m", "prompt": "p", "messages": [{"role": "user"}], **fields}
    error = refusal(api, json.dumps(body).encode())
    assert (error.status, error.param) == (400, param)
    assert error.code in ("unsupported_parameter", "unsupported_value")


def test_unsupported_fields_may_be_null_and_text_may_be_asked_for():
    fields = {"audio": None, "functions": None, "kv_transfer_params": None}
    assert read_envelope(CHAT, chat(**fields, modalities=["text"])).model == "m"
    assert read_envelope(CHAT, chat(**fields, modalities=None)).model == "m"


@pytest.mark.parametrize("key", ["image_url", "audio_url", "video_url", "input_audio", "uuid"])
def test_a_text_part_cannot_smuggle_media_past_the_guard(key):
    error = refusal(CHAT, chat({**TEXT, key: "http://169.254.169.254/"}))
    assert error.param == f"messages[0].content[0].{key}"


@pytest.mark.parametrize("key", ["uuid", "video_url", "image_embeds"])
def test_an_image_part_cannot_smuggle_other_media(key):
    error = refusal(CHAT, chat(image(**{key: "x"})))
    assert error.param == f"messages[0].content[0].{key}"


def test_no_refusal_quotes_the_prompt():
    secret = "my secret diary"
    bodies = [
        f'{{"model":"m","messages":"{secret}"}}',
        f'{{"model":"m","messages":[{{"content":[{{"text":"{secret}"}}]}}]}}',
        f'{{"model":"m","messages":["{secret}',
    ]
    for body in bodies:
        assert secret not in refusal(CHAT, body.encode()).message
