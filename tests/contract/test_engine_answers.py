"""What every engine's answers look like to a client, and what it refuses to answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from engine_calls import (
    answer_of,
    chat,
    completion,
    decode_of,
    events,
    finish_of,
    hear,
    holds_nothing,
    load_where,
    prefill_of,
    text_of,
)

from epd.wire.messages import Completed, FailureKind, Generate
from epd_worker.engine import Engine, EngineError, StageClock

# --- OpenAI's shape ----------------------------------------------------------------------------


async def test_a_chat_stream_opens_with_the_role_and_each_event_carries_the_same_head(
    here: Engine,
) -> None:
    found = events((await hear(here, chat(here))).payload)
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in event["choices"][0]["delta"] for event in found[1:-1])
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    assert {event["id"] for event in found} == {"chatcmpl-7"}
    assert {event["created"] for event in found} == {1_700_000_000}
    assert {event["model"] for event in found} == {here.describe().model}


async def test_a_completion_stream_has_completion_events(here: Engine) -> None:
    found = events((await hear(here, completion(here))).payload)
    assert {event["object"] for event in found} == {"text_completion"}
    assert {event["id"] for event in found} == {"cmpl-7"}


async def test_an_answer_at_once_is_one_json_object(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    heard = await hear(here, ask(here, stream=False))
    answer = json.loads(heard.payload)
    assert answer["object"] in ("chat.completion", "text_completion")
    assert answer["created"] == 1_700_000_000
    assert _usage(heard.result).items() <= answer["usage"].items()


@pytest.mark.parametrize("choices", [1, 2])
async def test_an_answer_at_once_gives_signs_of_life_before_its_end(
    here: Engine, there: Engine, ask: Callable[..., Generate], choices: int
) -> None:
    """Without them a frozen engine could not be told from one that is busy."""
    had: list[tuple[bytes, bytes]] = []

    async def run(engine: Engine, work: Generate) -> None:
        had.clear()
        await engine.generate("r", work, lambda *event: had.append(event), StageClock(), 0)
        assert len(had) > 4
        assert not any(payload for payload, _ in had[:-1])
        assert json.loads(had[-1][0])["choices"]

    work = ask(here, stream=False, max_tokens=12, n=choices, temperature=choices - 1)
    await run(here, work)
    if choices == 1:
        assert len(b"".join(token_ids for _, token_ids in had)) == 12 * 4
        assert max(len(token_ids) for _, token_ids in had) < 12 * 4
        await run(there, decode_of(work, await hear(here, prefill_of(work))))


async def test_a_stream_that_asks_for_usage_ends_with_it(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    heard = await hear(here, ask(here, max_tokens=6))
    assert isinstance(heard.result, Completed)
    assert heard.result.output_tokens == len(heard.token_ids) // 4 <= 6
    last = events(heard.payload)[-1]
    assert last["choices"] == []
    assert last["usage"] == _usage(heard.result)


async def test_a_stream_that_does_not_ask_for_usage_has_none(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    heard = await hear(here, ask(here, stream_options=None))
    assert all(event["choices"] and not event.get("usage") for event in events(heard.payload))


async def test_the_newer_name_of_the_output_limit_counts(here: Engine) -> None:
    heard = await hear(here, chat(here, max_tokens=None, max_completion_tokens=3))
    assert len(heard.token_ids) == 3 * 4


async def test_n_answers_are_numbered_and_differ_in_nothing_but_text(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    heard = await hear(here, ask(here, n=3, temperature=1, seed=7))
    found = events(heard.payload)
    assert {part["index"] for event in found for part in event["choices"]} == {0, 1, 2}
    assert all(finish_of(heard.payload, choice) for choice in range(3))
    at_once = json.loads((await hear(here, ask(here, n=3, temperature=1, stream=False))).payload)
    assert [choice["index"] for choice in at_once["choices"]] == [0, 1, 2]


# --- stop strings ------------------------------------------------------------------------------


async def test_a_stop_string_ends_the_answer_before_it(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    text = text_of((await hear(here, ask(here))).payload)
    stop = text[len(text) // 3 : len(text) // 3 + 4]
    heard = await hear(here, ask(here, stop=["not in there", stop]))
    assert text_of(heard.payload) == text.partition(stop)[0]
    assert finish_of(heard.payload) == "stop"
    assert isinstance(heard.result, Completed)
    assert heard.result.output_tokens == len(heard.token_ids) // 4 < 8


async def test_a_stop_string_is_found_across_prefill_and_decode(
    here: Engine, there: Engine, ask: Callable[..., Generate]
) -> None:
    text = text_of((await hear(here, ask(here))).payload)
    stop = text[len(text) // 2 : len(text) // 2 + 6]
    work = ask(here, stop=stop)
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    decode = await hear(there, decode_of(work, prefill))
    assert answer_of(prefill.payload + decode.payload) == answer_of(whole.payload)
    assert prefill.token_ids + decode.token_ids == whole.token_ids


async def test_a_stop_string_that_never_comes_changes_no_text(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    plain = await hear(here, ask(here))
    heard = await hear(here, ask(here, stop=["never said"]))
    assert text_of(heard.payload) == text_of(plain.payload)
    assert heard.token_ids == plain.token_ids


# --- refusals ----------------------------------------------------------------------------------

BAD_CHATS: dict[str, dict[str, Any]] = {
    "max_tokens of 0": {"max_tokens": 0},
    "max_tokens of a word": {"max_tokens": "many"},
    "messages of a word": {"messages": "hello"},
    "no messages": {"messages": []},
    "a message that is no object": {"messages": [7]},
    "a message without role": {"messages": [{"content": "hello"}]},
    "an unknown part": {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
    "n of 0": {"n": 0},
    "a stop that is a number": {"stop": 7},
    "a prompt over the context": {"messages": [{"role": "user", "content": "word " * 200_000}]},
    "an output over the context": {"max_tokens": 10_000_000},
}


@pytest.mark.parametrize("fields", BAD_CHATS.values(), ids=BAD_CHATS)
async def test_a_bad_chat_is_refused_in_openais_shape(here: Engine, fields: dict[str, Any]) -> None:
    await _is_refused(here, chat(here, **fields))


@pytest.mark.parametrize("prompt", [7, [], {"a": 1}, ["words", 7]], ids=str)
async def test_a_bad_prompt_is_refused_in_openais_shape(here: Engine, prompt: Any) -> None:
    await _is_refused(here, completion(here, prompt))


async def test_a_refusal_does_not_quote_the_prompt(here: Engine) -> None:
    secret = "correct horse battery staple"
    work = chat(here, messages=[{"role": "user", "content": [{"type": secret}]}])
    assert secret not in (await _is_refused(here, work)).message


async def _is_refused(engine: Engine, work: Generate) -> EngineError:
    with pytest.raises(EngineError) as refused:
        await hear(engine, work)
    assert refused.value.kind is FailureKind.REFUSED
    assert refused.value.status == 400
    error = json.loads(refused.value.body)["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    await load_where(engine, holds_nothing)
    return refused.value


async def test_an_engine_refuses_the_same_at_prefill(here: Engine) -> None:
    await _is_refused(here, prefill_of(chat(here, max_tokens=0)))


def _usage(result: object) -> dict[str, int]:
    assert isinstance(result, Completed)
    prompt, output = result.prompt_tokens, result.output_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
