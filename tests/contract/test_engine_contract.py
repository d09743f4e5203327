"""What every engine does, whichever it is: the suite that `vllm` and `simulated` both pass."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from engine_calls import (
    answer_of,
    chat,
    decode_of,
    encode,
    finish_of,
    hear,
    holds_nothing,
    load_where,
    open_text_of,
    picture,
    prefill_of,
    text_of,
    with_handles,
    with_pixels,
)

from epd.wire.messages import Completed, FailureKind, Generate, Phase, Prefilled
from epd_worker.engine import Engine, EngineError, StageClock
from epd_worker.engine.ec_leases import lease_name

EngineFactory = Callable[..., Awaitable[Engine]]


# --- one answer, however it is split -----------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
async def test_prefill_here_and_decode_there_give_the_bytes_of_a_whole(
    here: Engine, there: Engine, ask: Callable[..., Generate], stream: bool
) -> None:
    work = ask(here, stream=stream)
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    assert isinstance(prefill.result, Prefilled)
    assert len(prefill.token_ids) == 4
    decode = await hear(there, decode_of(work, prefill))
    assert answer_of(prefill.payload + decode.payload) == answer_of(whole.payload)
    assert prefill.token_ids + decode.token_ids == whole.token_ids
    assert decode.result == whole.result
    assert decode.clock.handoff_us > 0
    assert isinstance(whole.result, Completed)
    for heard in (whole, prefill):
        assert heard.clock.prompt_tokens == whole.result.prompt_tokens


async def test_the_kv_cache_leaves_its_owner_with_the_handoff(here: Engine, there: Engine) -> None:
    work = chat(here)
    prefill = await hear(here, prefill_of(work))
    assert (await load_where(here, lambda load: load.kv_leases == 1)).kv_leases == 1
    await hear(there, decode_of(work, prefill))
    await load_where(here, holds_nothing)
    received = await load_where(there, lambda load: load.kv_received_bytes_total > 0)
    assert received.kv_received_bytes_total >= prefill.prefilled.kv.size_bytes


async def test_a_prefill_of_one_token_is_the_whole_answer(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    work = ask(here, max_tokens=1)
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    assert isinstance(prefill.result, Completed)
    assert answer_of(prefill.payload) == answer_of(whole.payload)
    assert prefill.token_ids == whole.token_ids
    await load_where(here, holds_nothing)


async def test_chunked_bytes_are_the_plain_bytes_in_http_chunks(here: Engine) -> None:
    work = chat(here)
    plain = await hear(here, work)
    chunked = await hear(here, replace(work, http_chunks=True))
    body, rest = b"", chunked.payload
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        assert rest[int(size, 16) :][:2] == b"\r\n"
        rest = rest[int(size, 16) + 2 :]
        assert int(size, 16) > 0  # the end of the body is the gateway's to write
    assert answer_of(body) == answer_of(plain.payload)


async def test_a_streamed_answer_has_the_text_of_one_that_is_not(
    here: Engine, ask: Callable[..., Generate]
) -> None:
    streamed = await hear(here, ask(here))
    (choice,) = json.loads((await hear(here, ask(here, stream=False))).payload)["choices"]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    assert text == text_of(streamed.payload) != ""
    assert choice["finish_reason"] == finish_of(streamed.payload)


# --- images ------------------------------------------------------------------------------------


async def test_an_embedding_from_another_worker_serves_like_the_pixels(
    here: Engine, there: Engine
) -> None:
    images = [picture("navy"), picture("gold")]
    whole = await hear(here, with_pixels(chat(here, images=2), *images))
    work = await with_handles(chat(here, images=2), here, *images)
    assert answer_of((await hear(there, work)).payload) == answer_of(whole.payload)
    assert (await load_where(there, lambda load: load.ec_received_bytes_total > 0)) is not None


async def test_three_stages_on_two_workers_give_the_bytes_of_a_whole(
    here: Engine, there: Engine
) -> None:
    image = picture("teal")
    whole = await hear(here, with_pixels(chat(here, images=1), image))
    work = await with_handles(chat(here, images=1), here, image)
    prefill = await hear(there, prefill_of(work))
    decode = await hear(here, decode_of(work, prefill))
    assert answer_of(prefill.payload + decode.payload) == answer_of(whole.payload)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
async def test_an_answer_goes_on_where_it_was_prefilled_without_a_handoff(
    here: Engine, stream: bool
) -> None:
    work = with_pixels(chat(here, images=1, stream=stream), picture("maroon"))
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    await here.release([prefill.prefilled.kv.identifier], [])
    rest = await hear(here, replace(decode_of(work, prefill), kv=None))
    assert answer_of(prefill.payload + rest.payload) == answer_of(whole.payload)
    assert prefill.token_ids + rest.token_ids == whole.token_ids
    assert rest.result == whole.result


async def test_an_embedding_made_on_this_very_worker_needs_no_pixels(here: Engine) -> None:
    image = picture("olive")
    whole = await hear(here, with_pixels(chat(here, images=1), image))
    work = await with_handles(chat(here, images=1), here, image)
    local = replace(work, images=tuple(replace(image, local=True) for image in work.images))
    assert answer_of((await hear(here, local)).payload) == answer_of(whole.payload)


async def test_other_images_or_another_order_give_another_answer(here: Engine) -> None:
    navy, gold = picture("navy"), picture("gold")
    work = chat(here, images=2, max_tokens=24, stream=False, logprobs=True)
    answers = {
        (await hear(here, with_pixels(work, *pair))).payload
        for pair in ((navy, gold), (gold, navy), (navy, navy))
    }
    assert len(answers) == 3


async def test_an_embedding_may_be_taken_more_than_once(here: Engine, there: Engine) -> None:
    work = await with_handles(chat(here, images=1), here, picture("plum"))
    first = await hear(there, work)
    again = await hear(there, work)
    assert answer_of(again.payload) == answer_of(first.payload)


async def test_a_worker_that_lacks_an_embedding_of_its_own_loses_the_request_and_nothing_else(
    here: Engine, there: Engine
) -> None:
    """Its process is a new one of the same name, or the room was needed for others."""
    work = await with_handles(chat(here, images=1), here, picture("salmon"))
    forgotten = tuple(
        replace(image, ec=replace(image.ec, identifier=lease_name("0" * 64, 0)), local=True)
        for image in work.images
        if image.ec is not None
    )
    for phase in (Phase.WHOLE, Phase.PREFILL):
        with pytest.raises(EngineError) as lost:
            await hear(here, replace(work, phase=phase, images=forgotten))
        assert lost.value.kind is FailureKind.HANDOFF_LOST
    assert text_of((await hear(here, work)).payload)
    assert text_of((await hear(there, work)).payload)


# --- leases ------------------------------------------------------------------------------------


async def test_what_nobody_takes_is_freed_in_time(
    engine_factory: EngineFactory, there: Engine
) -> None:
    owner = await engine_factory("owner", kv_lease_s=0.3, ec_lease_s=0.3)
    work = await with_handles(chat(owner, images=1), owner, picture("gray"))
    prefill = await hear(owner, prefill_of(work))
    # The load that is known may be older than the leases: their time must pass first.
    await asyncio.sleep(prefill.prefilled.kv.lease_ms / 1000)
    await load_where(owner, holds_nothing)
    for late in (work, decode_of(work, prefill)):
        with pytest.raises(EngineError) as lost:
            await hear(there, late)
        assert lost.value.kind is FailureKind.HANDOFF_LOST
    await load_where(there, holds_nothing)


async def test_a_release_frees_what_nobody_will_take(here: Engine) -> None:
    handle = await encode(here, picture("black"))
    prefill = await hear(here, prefill_of(chat(here)))
    await load_where(here, lambda load: load.kv_leases == 1 and load.ec_leases == 1)
    await here.release([prefill.prefilled.kv.identifier, "unknown"], [handle.identifier, "unknown"])
    await load_where(here, holds_nothing)


async def test_a_release_that_comes_twice_takes_nothing_from_another_holder(here: Engine) -> None:
    """A gateway sends it again where it does not know whether it arrived."""
    first, second = await encode(here, picture("teal")), await encode(here, picture("teal"))
    await here.release([], [first.identifier, first.identifier])
    await load_where(here, lambda load: load.ec_leases == 1)
    await here.release([], [second.identifier])
    await load_where(here, holds_nothing)


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.WHOLE, Phase.PREFILL, Phase.DECODE])
async def test_a_cancelled_request_leaves_nothing_behind(
    here: Engine, there: Engine, phase: Phase
) -> None:
    work = chat(here, max_tokens=500, ignore_eos=True)
    if phase is Phase.DECODE:
        work = decode_of(work, await hear(there, prefill_of(work)))
    running = asyncio.Event()
    task = asyncio.create_task(hear(here, replace(work, phase=phase), running.set))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for engine in (here, there):
        await load_where(engine, holds_nothing)
    assert (await hear(here, chat(here))).payload


async def test_handles_of_another_compatibility_hash_are_refused(
    here: Engine, there: Engine
) -> None:
    work = await with_handles(chat(here, images=1), here, picture("red"))
    prefill = await hear(here, prefill_of(work))
    other = replace(prefill.prefilled.kv, compatibility_hash="another")
    images = tuple(
        replace(image, ec=replace(image.ec, compatibility_hash="another"))
        for image in work.images
        if image.ec is not None
    )
    for foreign in (replace(decode_of(work, prefill), kv=other), replace(work, images=images)):
        with pytest.raises(EngineError) as refused:
            await hear(there, foreign)
        assert refused.value.kind is FailureKind.INCOMPATIBLE


async def test_engines_of_equal_settings_are_compatible(here: Engine, there: Engine) -> None:
    assert here.describe().compatibility_hash == there.describe().compatibility_hash != ""


async def test_a_handoff_from_an_engine_that_ended_is_lost_and_the_request_is_not(
    engine_factory: EngineFactory, here: Engine
) -> None:
    owner = await engine_factory("owner")
    image = picture("pink")
    work = await with_handles(chat(owner, images=1), owner, image)
    prefill = await hear(owner, prefill_of(work))
    await owner.close()
    # Whoever goes while it still waits for a handoff leaves nothing of it behind.
    impatient = asyncio.create_task(hear(here, work))
    await asyncio.sleep(0.5)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    await load_where(here, holds_nothing)
    for late in (work, decode_of(work, prefill)):
        with pytest.raises(EngineError) as lost:
            await hear(here, late)
        assert lost.value.kind is FailureKind.HANDOFF_LOST
    await load_where(here, holds_nothing)
    again = await hear(here, with_pixels(work, image))
    assert text_of(again.payload).startswith(open_text_of(prefill.payload))


# --- replay ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [False, True], ids=["plain", "with stop strings"])
@pytest.mark.parametrize("emitted", [0, 1, 5, 7])
async def test_a_replay_goes_on_exactly_after_what_the_client_has_had(
    here: Engine, there: Engine, ask: Callable[..., Generate], emitted: int, stop: bool
) -> None:
    work = ask(here, **({"stop": ["never said"]} if stop else {}))
    had, tokens = bytearray(), bytearray()
    lengths = {0: 0}

    def emit(payload: bytes, token_ids: bytes) -> None:
        had.extend(payload)
        tokens.extend(token_ids)
        lengths[len(tokens) // 4] = len(had)

    whole = await here.generate("request", work, emit, StageClock(), 0)
    emitted = max(count for count in lengths if count <= emitted)  # two may come in one event
    replay = replace(work, phase=Phase.DECODE, emitted_token_ids=bytes(tokens[: 4 * emitted]))
    rest = await hear(there, replay)
    assert open_text_of(rest.payload) == open_text_of(bytes(had[lengths[emitted] :]))
    assert rest.token_ids == bytes(tokens[4 * emitted :])
    assert rest.result == whole


async def test_a_replay_computes_images_anew(here: Engine, there: Engine) -> None:
    image = picture("cyan")
    work = with_pixels(chat(here, images=1), image)
    whole = await hear(here, work)
    prefill = await hear(here, prefill_of(work))
    replay = replace(decode_of(work, prefill), kv=None)
    rest = await hear(there, replay)
    assert answer_of(prefill.payload + rest.payload) == answer_of(whole.payload)


# --- load and end ------------------------------------------------------------------------------


async def test_the_load_shows_what_runs(here: Engine) -> None:
    idle = await load_where(here, holds_nothing)
    running = asyncio.Event()
    work = chat(here, max_tokens=500, ignore_eos=True)
    task = asyncio.create_task(hear(here, work, running.set))
    await running.wait()
    busy = await load_where(here, lambda load: load.running_tokens > 0)
    assert busy.kv_used_permille >= idle.kv_used_permille
    task.cancel()
    await load_where(here, lambda load: load.running_tokens == 0)


async def test_closing_twice_is_closing_once_and_leaves_no_task(
    engine_factory: EngineFactory,
) -> None:
    before = asyncio.all_tasks()
    engine = await engine_factory("short-lived")
    await hear(engine, chat(engine))
    await engine.close()
    await engine.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_what_runs_when_the_engine_is_closed_fails_and_does_not_hang(
    engine_factory: EngineFactory,
) -> None:
    engine = await engine_factory("short-lived")
    running = asyncio.Event()
    work = chat(engine, max_tokens=500, ignore_eos=True)
    task = asyncio.create_task(hear(engine, work, running.set))
    await running.wait()
    await engine.close()
    with pytest.raises(EngineError) as failed:
        await task
    assert failed.value.kind in (FailureKind.SHUTTING_DOWN, FailureKind.INTERNAL)
