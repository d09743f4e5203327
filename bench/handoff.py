"""`handoff`: how fast EC and KV move between two engines, beside raw NIXL and a plain copy.

Two engines of a model with a wide KV cache (64 KiB a token) and wide embeddings, weights drawn at
random: what moves is measured, not what is said. The time of a handoff is what the taking engine
waited from the request's arrival to its first schedule, so that vLLM's own steps are in it; the
giving engine is idle. Each transfer is of a prompt, or an image, of its own.
"""

import asyncio
import json
import random
import statistics
from dataclasses import dataclass
from typing import Any

import vllm_fleet
from direct_load import Pod
from programs import MeasurementError, Programs, programs, run_script
from prompts import CREATED_S, noise_png
from report import Options, Report, Table, say
from vllm_fleet import VllmFleet, everywhere, widened_model

from epd.wire.messages import (
    IMAGE_REFERENCE_PREFIX,
    Api,
    EcHandle,
    Encode,
    Generate,
    Image,
    Outcome,
    Phase,
    Prefilled,
)

MODEL = "wide"
RAW_SIZES_MIB = "1,16,256"
KV_TOKENS = (64, 256, 1024, 2048)
EC_SIDES = (256, 512, 1024)  # pixels: 64, 256, 1024 tokens
PIXELS_PER_TOKEN = 32 * 32
LANGUAGE = {"num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16}
HIDDEN = 1024
ENGINE_ARGS = (
    "--load-format=dummy", "--max-model-len=4096", "--kv-cache-memory-bytes=1073741824",
)  # fmt: skip
GIB = 1 << 30

missing = vllm_fleet.missing


@dataclass(frozen=True, slots=True)
class Handoff:
    """One transfer."""

    size_bytes: int
    took_ms: float

    @property
    def gib_per_s(self) -> float:
        """Bytes over the time that the taker waited."""
        return self.size_bytes / GIB / (self.took_ms / 1e3)


def measure(options: Options) -> Report:
    """Measure raw transfers, then engines."""
    repeats = 3 if options.quick else 7
    with programs() as running:
        say(f"raw NIXL and memcpy, {RAW_SIZES_MIB} MiB")
        raw = _raw(running, repeats)
        model = widened_model(
            running,
            "wide-qwen3-vl",
            longest_edge=EC_SIDES[-1] ** 2,
            text_config={**LANGUAGE, "hidden_size": HIDDEN},
            vision_config={"out_hidden_size": HIDDEN},
        )
        fleet = VllmFleet(running, MODEL)
        for name in ("giver", "taker"):
            fleet.begin_worker(name, model, *ENGINE_ARGS)
        for name in ("giver", "taker"):
            fleet.finish_worker(name)
        found = asyncio.run(_between_engines(fleet, repeats, quick=options.quick))
    return _report(raw, found)


def _raw(running: Programs, repeats: int) -> list[dict[str, Any]]:
    rows: Any = run_script(
        running, everywhere(), "nixl_raw.py", sizes_mib=RAW_SIZES_MIB, repeats=repeats
    )
    return list(rows)


async def _between_engines(
    fleet: VllmFleet, repeats: int, *, quick: bool
) -> dict[str, dict[int, list[Handoff]]]:
    giver, taker = (Pod(fleet.addresses[name]) for name in ("giver", "taker"))
    rng = random.Random(11)
    found: dict[str, dict[int, list[Handoff]]] = {"KV": {}, "EC": {}}
    try:
        for tokens in KV_TOKENS[: 2 if quick else None]:
            say(f"KV of {tokens} tokens, {repeats + 1} times")
            taken = [await _hand_kv(giver, taker, tokens, rng) for _ in range(repeats + 1)]
            found["KV"][tokens] = taken[1:]  # the first may have set the connection up
        for side in EC_SIDES[: 1 if quick else None]:
            tokens = side * side // PIXELS_PER_TOKEN
            say(f"EC of {tokens} tokens, {repeats + 1} times")
            taken = [await _hand_ec(giver, taker, side, rng) for _ in range(repeats + 1)]
            found["EC"][tokens] = taken[1:]
    finally:
        await giver.close()
        await taker.close()
    return found


async def _hand_kv(giver: Pod, taker: Pod, tokens: int, rng: random.Random) -> Handoff:
    """Prefill a prompt here, take its KV cache there."""
    prompt = [rng.randrange(10, 400) for _ in range(tokens)]
    body = {"prompt": prompt, "max_tokens": 2, "ignore_eos": True}
    emitted: list[bytes] = []
    work = _work(Phase.PREFILL, Api.COMPLETIONS, body)
    outcome = await giver.run("kv-prefill", work, emitted.append)
    prefilled = outcome.result
    if not isinstance(prefilled, Prefilled):
        raise MeasurementError(f"a prefill of {tokens} tokens: {prefilled}")
    work = _work(
        Phase.DECODE,
        Api.COMPLETIONS,
        body,
        kv=prefilled.kv,
        rendered=prefilled.rendered,
        emitted_token_ids=b"".join(emitted),
    )
    decoded = await taker.run("kv-decode", work)
    return _handoff(decoded, prefilled.kv.size_bytes)


async def _hand_ec(giver: Pod, taker: Pod, side: int, rng: random.Random) -> Handoff:
    """Encode an image here, take its embedding there."""
    png = noise_png(3 * side * side // 1024, rng)
    handle = (await giver.run("ec-encode", Encode(Image(png, "image/png")))).result
    if not isinstance(handle, EcHandle):
        raise MeasurementError(f"an encode of {side} x {side} pixels: {handle}")
    picture = {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}0"}}
    body = {"messages": [{"role": "user", "content": [picture]}], "max_tokens": 1}
    image = Image(media_type="image/png", ec=handle)
    work = _work(Phase.WHOLE, Api.CHAT_COMPLETIONS, body, images=(image,))
    outcome = await taker.run("ec-prefill", work)
    giver.release(handle.identifier)
    return _handoff(outcome, handle.size_bytes)


def _work(phase: Phase, api: Api, body: dict[str, Any], **fields: Any) -> Generate:
    given = {"model": MODEL, "temperature": 0, "stream": True, **body}
    return Generate(
        phase=phase,
        api=api,
        body=json.dumps(given).encode(),
        stream=True,
        response_id="handoff",
        created_s=CREATED_S,
        **fields,
    )


def _handoff(outcome: Outcome, size_bytes: int) -> Handoff:
    if not outcome.handoff_us:
        raise MeasurementError(f"a handoff did not happen: {outcome.result}")
    return Handoff(size_bytes, outcome.handoff_us / 1e3)


def _report(raw: list[dict[str, Any]], found: dict[str, dict[int, list[Handoff]]]) -> Report:
    def speed(size_bytes: int, took_ms: float) -> float:
        return size_bytes / GIB / (took_ms / 1e3)

    raw_rows = []
    for row in raw:
        size, nixl, memcpy = row["size_bytes"], row["nixl"], row["memcpy"]
        raw_rows.append(
            (
                size / (1 << 20),
                nixl["first_ms"],
                nixl["median_ms"],
                speed(size, nixl["median_ms"]),
                memcpy["median_ms"],
                speed(size, memcpy["median_ms"]),
            )
        )
    engine_rows = [
        (
            f"{kind}, {tokens} tokens",
            handoffs[0].size_bytes / (1 << 20),
            statistics.median(h.took_ms for h in handoffs),
            statistics.median(h.gib_per_s for h in handoffs),
            max(h.gib_per_s for h in handoffs),
        )
        for kind, by_tokens in found.items()
        for tokens, handoffs in by_tokens.items()
    ]
    tables = [
        Table(
            "Raw, two processes (first: with the connection's set-up)",
            ("MiB", "NIXL first ms", "NIXL ms", "GiB/s", "memcpy ms", "GiB/s"),
            raw_rows,
        ),
        Table(
            "Between two engines (medians; what the taker waited, vLLM's steps included)",
            ("", "MiB", "ms", "GiB/s", "best GiB/s"),
            engine_rows,
        ),
    ]
    figures = {
        "raw": [dict(zip(tables[0].columns, row, strict=False)) for row in raw_rows],
        "engines": {
            row[0]: {"mib": row[1], "ms": row[2], "gib_per_s": row[3]} for row in engine_rows
        },
    }
    measured = {
        kind: {
            tokens: [{"size_bytes": h.size_bytes, "took_ms": h.took_ms} for h in handoffs]
            for tokens, handoffs in by_tokens.items()
        }
        for kind, by_tokens in found.items()
    }
    return Report(tables, figures, {"raw": raw, "engines": measured})
