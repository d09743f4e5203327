"""What only the simulated engine does: foretold tokens, failures on purpose, capacities."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from engine_calls import (
    chat,
    decode_of,
    encode,
    hear,
    picture,
    prefill_of,
    text_of,
    with_handles,
    with_pixels,
)

from epd.wire.messages import Completed, Encode, FailureKind, Generate, Image
from epd_worker.engine import EngineError, StageClock
from epd_worker.engine.ec_leases import content_of
from epd_worker.engine.settings import EngineSettings
from epd_worker.engine.simulated import SimulatedEngine
from epd_worker.engine.simulated_answer import text_of as text_of_token
from epd_worker.engine.simulated_answer import token_ids

NewEngine = Callable[..., Awaitable[SimulatedEngine]]


@pytest.fixture
async def new_engine() -> AsyncIterator[NewEngine]:
    engines: list[SimulatedEngine] = []

    async def make(
        *overrides: str, name: str = "a", model: str = "tiny", seed: int = 0
    ) -> SimulatedEngine:
        arguments = ["time_scale=0", *overrides]
        settings = EngineSettings(name, model, "served", engine_args=arguments, seed=seed)
        engines.append(SimulatedEngine(settings))
        await engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


async def kind_of_failure(engine: SimulatedEngine, work: Generate) -> FailureKind:
    with pytest.raises(EngineError) as failed:
        await hear(engine, work)
    return failed.value.kind


# --- tokens ------------------------------------------------------------------------------------


def test_a_longer_answer_begins_with_the_shorter_one() -> None:
    assert token_ids(b"seed", 0, 500)[:9] == token_ids(b"seed", 0, 9)


def test_every_token_has_its_own_text_of_equal_length() -> None:
    texts = {text_of_token(token_id) for token_id in range(65536)}
    assert len(texts) == 65536
    assert {len(text) for text in texts} == {7}


async def test_the_answer_depends_on_model_prompt_and_images_only(new_engine: NewEngine) -> None:
    engine = await new_engine(seed=1)
    same, other = await new_engine(seed=2), await new_engine(model="big")
    text = text_of((await hear(engine, chat(engine))).payload)
    assert text_of((await hear(same, chat(same, temperature=0.5))).payload) == text
    assert text_of((await hear(other, chat(other))).payload) != text
    assert text_of((await hear(engine, chat(engine, text="Else?"))).payload) != text
    with_image = with_pixels(chat(engine, images=1), picture("red"))
    assert text_of((await hear(engine, with_image)).payload) != text


async def test_the_model_and_not_the_seed_makes_engines_incompatible(new_engine: NewEngine) -> None:
    hashes = [
        (await new_engine(model=model, seed=seed)).describe().compatibility_hash
        for model, seed in (("tiny", 1), ("tiny", 2), ("big", 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


async def test_an_answer_without_a_limit_ends_by_itself(new_engine: NewEngine) -> None:
    engine = await new_engine()
    heard = await hear(engine, chat(engine, max_tokens=None))
    assert isinstance(heard.result, Completed)
    assert heard.result.output_tokens == 64
    assert b'"finish_reason":"stop"' in heard.payload


async def test_images_count_as_prompt_tokens(new_engine: NewEngine) -> None:
    engine = await new_engine()
    text = (await hear(engine, chat(engine, images=1))).result
    work = with_pixels(chat(engine, images=1), picture("red", 64, 64))
    both = (await hear(engine, work)).result
    assert isinstance(text, Completed)
    assert isinstance(both, Completed)
    assert both.prompt_tokens == text.prompt_tokens + 4


# --- what a handoff carries decides the tokens -------------------------------------------------


async def test_the_embedding_of_another_image_changes_the_answer(new_engine: NewEngine) -> None:
    here, there = await new_engine(name="a"), await new_engine(name="b")
    work = await with_handles(chat(here, images=1), here, picture("red"))
    other = await encode(here, picture("blue"))
    poisoned = replace(work, images=(replace(work.images[0], ec=other),))
    assert (await hear(there, work)).payload != (await hear(there, poisoned)).payload


async def test_the_kv_cache_of_another_request_does_not_go_unnoticed(new_engine: NewEngine) -> None:
    here, there = await new_engine(name="a"), await new_engine(name="b")
    work = chat(here)
    one = await hear(here, prefill_of(work))
    two = await hear(here, prefill_of(chat(here, text="Another question.")))
    swapped = replace(decode_of(work, one), kv=two.prefilled.kv)
    assert await kind_of_failure(there, swapped) is FailureKind.INTERNAL


@pytest.mark.parametrize(
    "spoil", [lambda ids: ids[4:], lambda ids: ids + ids[-4:], lambda _: b"no"]
)
async def test_emitted_tokens_that_are_not_the_answers_do_not_go_unnoticed(
    new_engine: NewEngine, spoil: Callable[[bytes], bytes]
) -> None:
    here, there = await new_engine(name="a"), await new_engine(name="b")
    work = chat(here)
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    spoilt = replace(decode_of(work, prefill), kv=None, emitted_token_ids=spoil(whole.token_ids))
    assert await kind_of_failure(there, spoilt) is FailureKind.INTERNAL


async def test_a_decode_does_not_read_the_body_again(new_engine: NewEngine) -> None:
    here, there = await new_engine(name="a"), await new_engine(name="b")
    work = chat(here)
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    decode = await hear(there, replace(decode_of(work, prefill), body=b""))
    assert prefill.payload + decode.payload == whole.payload


async def test_a_replay_that_lacks_nothing_says_nothing(new_engine: NewEngine) -> None:
    engine = await new_engine()
    work = chat(engine)
    whole = await hear(engine, work)
    prefill = await hear(engine, prefill_of(work))
    done = replace(decode_of(work, prefill), kv=None, emitted_token_ids=whole.token_ids)
    rest = await hear(engine, done)
    assert (rest.payload, rest.token_ids, rest.result) == (b"", b"", whole.result)


async def test_what_the_prefill_rendered_must_be_readable(new_engine: NewEngine) -> None:
    engine = await new_engine()
    prefill = await hear(engine, prefill_of(chat(engine)))
    broken = replace(decode_of(chat(engine), prefill), rendered=b"???")
    assert await kind_of_failure(engine, broken) is FailureKind.INTERNAL


async def test_several_answers_go_on_elsewhere_too(new_engine: NewEngine) -> None:
    here, there = await new_engine(name="a"), await new_engine(name="b")
    work = chat(here, n=3, stop=["w1"])
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    decode = await hear(there, decode_of(work, prefill))
    assert prefill.payload + decode.payload == whole.payload


# --- embeddings --------------------------------------------------------------------------------


async def test_the_same_image_is_kept_once_for_two_holders(new_engine: NewEngine) -> None:
    engine = await new_engine()
    first, again = await encode(engine, picture("red")), await encode(engine, picture("red"))
    assert replace(first, identifier=again.identifier) == again
    used = engine.load()
    assert used.ec_leases == 1
    await engine.release([], [first.identifier])
    assert engine.load() == used
    await engine.release([], [again.identifier])
    assert engine.load().ec_leases == 0


async def test_a_full_encoder_cache_is_an_overload(new_engine: NewEngine) -> None:
    engine = await new_engine("capacity.ec_bytes=200000")
    await encode(engine, picture("red"))
    with pytest.raises(EngineError) as full:
        await encode(engine, picture("red", 320, 320))
    assert full.value.kind is FailureKind.OVERLOADED
    assert engine.load().ec_leases == 1


async def test_a_model_that_publishes_no_metadata_needs_pixels_everywhere(
    new_engine: NewEngine,
) -> None:
    engine = await new_engine("capacity.pixels_once=false")
    assert not engine.describe().pixels_once
    handle = await encode(engine, picture("red"))
    assert handle.metadata == b""
    work = await with_handles(chat(engine, images=1), engine, picture("red"))
    bare = replace(work, images=(replace(work.images[0], content=b""),))
    assert (await hear(engine, work)).payload
    assert await kind_of_failure(engine, bare) is FailureKind.INTERNAL


async def test_an_embedding_that_is_not_here_any_more_is_computed_from_pixels_or_lost(
    new_engine: NewEngine,
) -> None:
    engine = await new_engine()
    work = await with_handles(chat(engine, images=1), engine, picture("red"))
    (image,) = work.images
    assert image.ec is not None
    await engine.release([], [image.ec.identifier])
    assert await kind_of_failure(engine, work) is FailureKind.HANDOFF_LOST
    with_both = replace(work, images=(replace(image, content=picture("red")),))
    assert (await hear(engine, with_both)).payload


async def test_equal_processor_options_in_another_spelling_make_the_same_embedding(
    new_engine: NewEngine,
) -> None:
    engine = await new_engine()
    image = Image(picture("red"))
    spellings = (b'{"a":1,"b":2}', b'{ "b": 2, "a": 1 }', b'{"a":2,"b":1}', b"")
    contents = [
        content_of((await engine.encode("r", Encode(image, spelling), StageClock())).identifier)
        for spelling in spellings
    ]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3


# --- failures on purpose -----------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "failing"), [(0, [2, 5]), (1, [1, 4])])
async def test_every_third_prefill_fails_and_the_seed_says_which(
    new_engine: NewEngine, seed: int, failing: list[int]
) -> None:
    engine = await new_engine("failures.prefill_every=3", seed=seed)
    ends = await asyncio.gather(
        *(hear(engine, chat(engine)) for _ in range(6)), return_exceptions=True
    )
    assert [turn for turn, end in enumerate(ends) if isinstance(end, EngineError)] == failing


async def test_encodes_decodes_and_handoffs_fail_on_purpose(new_engine: NewEngine) -> None:
    engine = await new_engine("failures.encode_every=1")
    with pytest.raises(EngineError, match="encode failed on purpose"):
        await encode(engine, picture("red"))
    here = await new_engine(name="b")
    decoder, taker = (
        await new_engine("failures.decode_every=1"),
        await new_engine("failures.handoff_every=1", name="c"),
    )
    work = chat(here)
    decode = decode_of(work, await hear(here, prefill_of(work)))
    assert await kind_of_failure(decoder, decode) is FailureKind.INTERNAL
    assert await kind_of_failure(taker, decode) is FailureKind.HANDOFF_LOST
    assert here.load().kv_leases == 1


async def test_a_side_channel_port_that_is_taken_is_told_in_one_line(new_engine: NewEngine) -> None:
    engine = await new_engine()
    prefill = await hear(engine, prefill_of(chat(engine)))
    port = json.loads(prefill.prefilled.kv.address)["port"]
    settings = EngineSettings("b", "tiny", "served", kv_side_channel_port=port)
    with pytest.raises(EngineError, match=f"the side channel cannot listen on 127.0.0.1:{port}"):
        await SimulatedEngine(settings).start()
