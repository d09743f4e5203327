"""Measures handoffs between two live workers: what the second waits for EC and KV of the first.

The time is the taker's own (`handoff_us`): from a request's arrival to the moment at which its
engine has what it waits for, with all the engine's own steps in it.
"""

import json
from dataclasses import replace
from typing import Final

from epd.wire.messages import IMAGE_REFERENCE_PREFIX, Api, EcHandle, Generate, Image, Phase
from epd_cli.failures import CommandError
from epd_cli.profile_worker import Probe, prefilled

_ANSWER: Final = 2
"""Tokens: one by the giver, one by the taker."""


def require_pair(giver: Probe, taker: Probe) -> None:
    """Make sure that one worker can take from the other.

    Raises:
        CommandError: It cannot.
    """
    here, there = giver.description, taker.description
    if here.worker_id == there.worker_id:
        raise CommandError(f"--taker: {there.worker_id} is the worker itself; name another one")
    if here.compatibility_hash != there.compatibility_hash:
        raise CommandError(
            f"--taker: {there.worker_id} cannot take from {here.worker_id}: model, revision, "
            f"engine or their settings differ ({there.compatibility_hash}, not "
            f"{here.compatibility_hash})"
        )


async def hand_kv(giver: Probe, taker: Probe, tokens: int) -> tuple[int, float]:
    """Prefill a prompt here and go on there; return the bytes that moved, and the ms waited."""
    prompt = giver.prompt(Phase.PREFILL, tokens, _ANSWER)
    (done,) = await giver.run(prompt)
    kept = prefilled(done)
    decode = replace(
        prompt,
        phase=Phase.DECODE,
        kv=kept.kv,
        rendered=kept.rendered,
        emitted_token_ids=done.token_ids,
    )
    return kept.kv.size_bytes, await _waited_ms(taker, decode)


async def hand_ec(giver: Probe, taker: Probe, size: tuple[int, int]) -> tuple[int, float]:
    """Encode a picture here, prefill it there; return the bytes that moved, and the ms waited."""
    picture = giver.picture(size)
    (done,) = await giver.run(picture)
    handle = done.result
    if not isinstance(handle, EcHandle):
        raise CommandError("the worker gave no embedding for a picture; cannot measure its handoff")
    part = {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}0"}}
    body = {
        "model": giver.description.model,
        "messages": [{"role": "user", "content": [part]}],
        "max_tokens": 1,
        "stream": True,
    }
    # A model whose processor publishes no metadata needs the pixels at each stage.
    content = b"" if handle.metadata else picture.image.content
    image = Image(content, picture.image.media_type, handle)
    chat = Generate(
        Phase.WHOLE, Api.CHAT_COMPLETIONS, json.dumps(body).encode(), (image,), stream=True
    )
    try:
        return handle.size_bytes, await _waited_ms(taker, chat)
    finally:
        await giver.release(handle)


async def _waited_ms(taker: Probe, work: Generate) -> float:
    (done,) = await taker.run(work)
    if not done.handoff_ms:
        raise CommandError(f"{taker.description.worker_id} took nothing from the other worker")
    return done.handoff_ms
