"""The requests of a load and the texts that must come back.

What a simulated engine must say is asked of the engine itself, in this process and at once, before
the load begins; what `mock_openai` must say is its own function. Bodies repeat after `count`.
"""

import asyncio
import base64
import json
import random
import struct
import zlib
from dataclasses import dataclass

from mock_openai import text_for

WORDS = (
    *("alder", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty"),
    *("kelp", "larch", "moor", "north", "ocean", "pine", "quay", "reef", "shale", "tarn"),
    *("umber", "vale", "wharf", "yarrow", "zinc"),
)
CREATED_S = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request's body, and the text that answers it; None: any text will do."""

    body: bytes
    expected: bytes | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the requests of one load look like."""

    model: str
    prompt_words: int = 200
    max_tokens: int = 64
    image_kib: int = 0
    seed: int = 1


def noise_png(kib: int, rng: random.Random) -> bytes:
    """Return a PNG of about so many KiB that no encoder cache has seen."""
    side = max(8, round((kib * 1024 / 3) ** 0.5))
    rows = b"".join(b"\0" + rng.randbytes(3 * side) for _ in range(side))
    header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    chunks = (
        struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def request_body(shape: Shape, prompt: str, image_url: str = "") -> bytes:
    """Return the JSON of one streamed chat."""
    content: object = prompt
    if image_url:
        content = [
            {"type": "text", "text": prompt},
            {"type": "image_url", "image_url": {"url": image_url}},
        ]
    request = {
        "model": shape.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": shape.max_tokens,
        "temperature": 0,
        "stream": True,
    }
    return json.dumps(request, separators=(",", ":")).encode()


def prompts(shape: Shape, count: int) -> list[str]:
    """Return prompts that differ from the first word on."""
    rng = random.Random(shape.seed)
    lengths = shape.prompt_words - 1
    return [
        " ".join([f"r{shape.seed}-{index}", *rng.choices(WORDS, k=lengths)])
        for index in range(count)
    ]


def unchecked(shape: Shape, count: int) -> list[Exchange]:
    """Return requests whose answers are not compared with anything."""
    rng = random.Random(shape.seed)
    return [
        Exchange(request_body(shape, prompt, _image_url(shape, rng)[1]), None)
        for prompt in prompts(shape, count)
    ]


def for_mock(shape: Shape, count: int) -> list[Exchange]:
    """Return requests for `mock_openai`, which answers text only."""
    bodies = [request_body(shape, prompt) for prompt in prompts(shape, count)]
    return [Exchange(body, text_for(body, shape.max_tokens)) for body in bodies]


async def for_simulated(shape: Shape, count: int) -> list[Exchange]:
    """Return requests for simulated engines, with the text that the engine gives to each."""
    from epd.wire.messages import IMAGE_REFERENCE_PREFIX, Api, Generate, Image, Phase
    from epd_worker.engine import StageClock
    from epd_worker.engine.settings import EngineSettings
    from epd_worker.engine.simulated import SimulatedEngine

    room = ["time_scale=0", "capacity.max_running=100000", "capacity.kv_tokens=1000000000"]
    engine = SimulatedEngine(
        EngineSettings(
            name="reference", model=shape.model, served_name=shape.model, engine_args=room
        )
    )
    await engine.start()

    async def answer(prompt: str, image: bytes) -> bytes:
        reference = f"{IMAGE_REFERENCE_PREFIX}0" if image else ""
        work = Generate(
            phase=Phase.WHOLE,
            api=Api.CHAT_COMPLETIONS,
            body=request_body(shape, prompt, reference),
            images=[Image(image, "image/png")] if image else [],
            response_id="reference",
            created_s=CREATED_S,
        )
        payloads: list[bytes] = []
        await engine.generate(
            prompt, work, lambda payload, _: payloads.append(payload), StageClock(), 0
        )
        text: str = json.loads(b"".join(payloads))["choices"][0]["message"]["content"]
        return text.encode()

    rng = random.Random(shape.seed)
    try:
        asked = [(prompt, *_image_url(shape, rng)) for prompt in prompts(shape, count)]
        texts = await asyncio.gather(*(answer(prompt, image) for prompt, image, _ in asked))
    finally:
        await engine.close()
    return [
        Exchange(request_body(shape, prompt, url), text)
        for (prompt, _, url), text in zip(asked, texts, strict=True)
    ]


def _image_url(shape: Shape, rng: random.Random) -> tuple[bytes, str]:
    if not shape.image_kib:
        return b"", ""
    image = noise_png(shape.image_kib, rng)
    return image, f"data:image/png;base64,{base64.b64encode(image).decode()}"
