"""What only the real engine can show: sampling that goes on elsewhere, and true handoffs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_calls import (
    answer_of,
    chat,
    decode_of,
    hear,
    open_text_of,
    picture,
    prefill_of,
    text_of,
    with_handles,
    with_pixels,
)
from engine_thread import EngineThread
from poison import poison_embeddings, poison_kv_caches

from epd.wire.messages import Phase
from epd_worker.engine import Engine

pytestmark = pytest.mark.parametrize(
    "engine_kind", [pytest.param("vllm", marks=pytest.mark.vllm)], scope="module"
)

SCHEMA = {
    "type": "object",
    "properties": {"width": {"type": "integer"}, "name": {"enum": ["lamp", "tower"]}},
    "required": ["name", "width"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "measure", "parameters": SCHEMA}}

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 1.0, "seed": 11},
    "seeded and narrowed": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 12},
    "penalties": {"presence_penalty": 1.0, "frequency_penalty": 1.5},
    "repetition penalty": {"repetition_penalty": 1.4},
    "minimum length": {"min_tokens": 6},
    "bias": {"logit_bias": {"40": 5, "41": 5}},
    "log probabilities": {"logprobs": True, "top_logprobs": 3},
    "json schema": {
        "max_tokens": 40,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "thing", "schema": SCHEMA},
        },
    },
    "required tool": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40},
    "named tool": {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "measure"}},
        "max_tokens": 40,
    },
}


def whole_answer(payload: bytes) -> object:
    """Return all that a client gets in one piece, tool calls and log probabilities included."""
    answer = json.loads(payload)
    for choice in answer["choices"]:
        for call in choice["message"].get("tool_calls") or ():
            call.pop("id")  # vLLM draws it at random
    return [(c["message"], c.get("logprobs"), c["finish_reason"]) for c in answer["choices"]]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("fields", SAMPLINGS.values(), ids=SAMPLINGS)
async def test_a_decode_elsewhere_samples_as_if_it_had_sampled_the_first_token_itself(
    here: Engine, there: Engine, fields: dict[str, Any]
) -> None:
    for stream in (True, False):
        work = chat(here, **{"max_tokens": 12, "stream": stream, **fields})
        whole = await hear(here, work)
        prefill = await hear(here, prefill_of(work))
        decode = await hear(there, decode_of(work, prefill))
        assert prefill.token_ids + decode.token_ids == whole.token_ids
        if stream:
            joined = prefill.payload + decode.payload
            assert answer_of(joined) == answer_of(whole.payload)
            assert _tool_arguments(joined) == _tool_arguments(whole.payload)
        else:
            assert whole_answer(decode.payload) == whole_answer(whole.payload)


@pytest.mark.parametrize("fields", SAMPLINGS.values(), ids=SAMPLINGS)
async def test_a_whole_answer_that_stays_where_it_was_prefilled_has_nothing_sampled_twice(
    here: Engine, fields: dict[str, Any]
) -> None:
    work = chat(here, **{"max_tokens": 12, "stream": False, **fields})
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    rest = await hear(here, replace(decode_of(work, prefill), kv=None))
    assert prefill.token_ids + rest.token_ids == whole.token_ids
    assert len(prefill.token_ids) == 4
    assert whole_answer(rest.payload) == whole_answer(whole.payload)
    await here.release([prefill.prefilled.kv.identifier], [])


@pytest.mark.parametrize("fields", SAMPLINGS.values(), ids=SAMPLINGS)
async def test_a_replay_samples_as_if_it_had_sampled_all_tokens_so_far_itself(
    here: Engine, there: Engine, fields: dict[str, Any]
) -> None:
    work = chat(here, **{"max_tokens": 12, **fields})
    whole = await hear(here, work)
    had = whole.token_ids[: len(whole.token_ids) // 8 * 4]
    rest = await hear(there, replace(work, phase=Phase.DECODE, emitted_token_ids=had))
    assert had + rest.token_ids == whole.token_ids
    assert text_of(whole.payload).endswith(open_text_of(rest.payload))


async def test_an_engine_starts_on_an_empty_machine_without_compiling_or_inspecting(
    here: Engine, caches: Path
) -> None:
    """A pod has an empty HOME: either would hold up each of its starts, on CPU by 10 s and more."""
    await hear(here, chat(here, logprobs=True, top_logprobs=3, stream=False))
    assert files_below(caches) == []


async def test_a_client_cannot_name_transfer_peers(here: Engine) -> None:
    peer = {"do_remote_prefill": True, "remote_engine_id": "x", "remote_host": "192.0.2.1"}
    plain = await hear(here, chat(here))
    forged = await hear(here, chat(here, kv_transfer_params=peer))
    assert text_of(forged.payload) == text_of(plain.payload)


async def test_no_transfer_address_reaches_the_client(here: Engine, there: Engine) -> None:
    work = await with_handles(chat(here, images=1, stream=False), here, picture("tan"))
    prefill = await hear(here, prefill_of(work))
    decode = await hear(there, decode_of(work, prefill))
    assert b"127.0.0.1" not in prefill.payload + decode.payload
    assert b"remote_host" not in decode.payload.replace(b'"remote_host":null', b"")


# --- proof that the handoff is what was used ---------------------------------------------------


async def test_a_poisoned_embedding_changes_the_answer(here: Engine, there: Engine) -> None:
    assert isinstance(here, EngineThread)
    image = picture("maroon", width=96)
    work = chat(here, images=1, max_tokens=24)
    truth = await hear(here, with_pixels(work, image))
    handed_off = await with_handles(work, here, image)
    poison_embeddings(here.engine)
    spoilt = await hear(there, handed_off)
    assert text_of(spoilt.payload) != text_of(truth.payload)


async def test_a_poisoned_kv_cache_changes_the_answer(here: Engine, there: Engine) -> None:
    assert isinstance(here, EngineThread)
    work = chat(here, max_tokens=24, text="Which lamp burns longest, and why?")
    expected = await hear(here, work)
    clean = await hear(there, decode_of(work, await hear(here, prefill_of(work))))
    prefill = await hear(here, prefill_of(work))
    vllm = here.engine._runtime.engine
    await here._there(vllm.collective_rpc(poison_kv_caches))
    spoilt = await hear(there, decode_of(work, prefill))
    await here._there(vllm.reset_prefix_cache())
    assert prefill.token_ids + clean.token_ids == expected.token_ids
    assert prefill.token_ids + spoilt.token_ids != expected.token_ids


def _tool_arguments(payload: bytes) -> str:
    parts = [p for p in payload.decode().split("\n\n") if p.startswith("data: {")]
    deltas = [
        choice["delta"] for p in parts for choice in json.loads(p.removeprefix("data: "))["choices"]
    ]
    return "".join(
        call["function"].get("arguments") or ""
        for delta in deltas
        for call in delta.get("tool_calls") or ()
    )
