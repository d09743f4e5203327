"""`encode_ways`: what an encode costs, and what it does to streams beside it, three ways.

- *between steps*: our encode-only request in the language engine (`vllm_core`).
- *placeholder*: the same engine asked to answer a chat that is one image, with one token.
- *second engine*: vLLM as `ec_producer`, encoder only, in a process of its own; on this machine
  it has a core of its own, too, as far as there is one.

The model is the tiny Qwen3-VL made larger, so that the tower and a prefill of the image's tokens
take as long as one another, as they roughly do in models that people use.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vllm_fleet
from direct_load import Pod
from programs import BENCH, MeasurementError, Program, programs
from prompts import CREATED_S, noise_png
from report import Options, Report, Table, say
from statistic import distribution
from vllm_fleet import ENGINE_ARGS, VllmFleet, everywhere, memory_of, widened_model

from epd.wire.messages import (
    IMAGE_REFERENCE_PREFIX,
    Api,
    Completed,
    EcHandle,
    Encode,
    Generate,
    Image,
    Phase,
)
from epd_operator import local_ports

MODEL = "larger"
LANGUAGE = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8,
}  # fmt: skip
VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "out_hidden_size": 256}
ARGUMENTS = (
    "--load-format=dummy", "--max-model-len=2048", "--kv-cache-memory-bytes=268435456",
)  # fmt: skip
STREAMS = 8
LOADS = ((256, 4.0), (512, 1.0))
"""Pixels of a side, images per second: 64 tokens four times a second, 256 once."""

EncodeOne = Callable[[bytes, Path], Awaitable[None]]

missing = vllm_fleet.missing


@dataclass(slots=True)
class Gaps:
    """Pauses between the tokens of streams that run."""

    ms: list[float] = field(default_factory=list)

    def listener(self) -> Callable[[bytes], None]:
        """Return what one stream calls at each of its events."""
        last_s = 0.0

        def note(_: bytes) -> None:
            nonlocal last_s
            now_s = time.monotonic()
            if last_s:
                self.ms.append(1e3 * (now_s - last_s))
            last_s = now_s

        return note


class SecondEngine:
    """The encoder-only process."""

    def __init__(self, fleet: VllmFleet, model: Path) -> None:
        port = str(local_ports.free_block(1, "127.0.0.1"))
        command = [sys.executable, BENCH / "encoder_engine.py", model, port]
        self.program: Program = fleet.programs.start(
            "encoder", [*command, *ENGINE_ARGS, *ARGUMENTS], everywhere(), with_input=True
        )
        self._answered = 0
        self._turn = asyncio.Lock()

    def wait(self) -> float:
        """Wait until it is ready; return the seconds since its start."""
        self.program.wait_for(lambda: "ready\n" in self._said(), "encoder")
        return time.monotonic() - self.program.started_s

    async def encode(self, _: bytes, path: Path) -> None:
        """Encode one image, one at a time."""
        async with self._turn:
            self.program.tell(f"{path}\n")
            self._answered += 1
            while self._said().count("\n{") < self._answered:
                await asyncio.sleep(0.001)
                if not self.program.running:
                    raise MeasurementError(f"the encoder ended: {self.program.last_line()}")

    def _said(self) -> str:
        return self.program.log.read_text(errors="replace")


def measure(options: Options) -> Report:
    """Start both engines and let the ways take turns."""
    with programs() as running:
        fleet = VllmFleet(running, MODEL)
        model = widened_model(
            running,
            "larger-qwen3-vl",
            longest_edge=LOADS[-1][0] ** 2,
            text_config=LANGUAGE,
            vision_config=VISION,
        )
        start_s = fleet.start_worker("w0", model, *ARGUMENTS)
        alone = memory_of(fleet.workers["w0"])
        found = asyncio.run(_measure(fleet, model, options))
        facts = {"language engine": {"start_s": start_s, "memory": alone}, **found.pop("facts")}
    return _report(found, facts)


async def _measure(fleet: VllmFleet, model: Path, options: Options) -> dict[str, Any]:
    pod = Pod(fleet.addresses["w0"])
    ways: dict[str, EncodeOne] = {
        "between steps": lambda png, _: _between_steps(pod, png),
        "placeholder": lambda png, _: _placeholder(pod, png),
    }
    found: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, encode in ways.items():
            await _one_way(fleet, pod, name, encode, options, found)
    second = SecondEngine(fleet, model)
    start_s = await asyncio.to_thread(second.wait)
    say(f"the second engine is ready after {start_s:.1f} s")
    for _ in range(options.rounds):
        await _one_way(fleet, pod, "second engine", second.encode, options, found)
    found["facts"] = {"second engine": {"start_s": start_s, "memory": memory_of(second.program)}}
    await pod.close()
    return found


async def _one_way(
    fleet: VllmFleet,
    pod: Pod,
    name: str,
    encode: EncodeOne,
    options: Options,
    found: dict[str, Any],
) -> None:
    window_s = 4.0 if options.quick else 15.0
    rng = random.Random(time.monotonic_ns())
    for side, rate in LOADS[: 1 if options.quick else None]:
        say(f"{name}: images of {side} x {side} pixels, {rate:g}/s beside {STREAMS} streams")
        alone_ms = [await _timed(fleet, encode, side, rng) for _ in range(6)][1:]
        gaps, beside_ms = await _beside_streams(fleet, pod, encode, side, rate, window_s, rng)
        quiet, _ = await _beside_streams(fleet, pod, None, side, rate, window_s / 2, rng)
        found.setdefault(name, {}).setdefault(side, []).append(
            {
                "alone_ms": statistics.median(alone_ms),
                "beside_streams_ms": distribution(beside_ms),
                "gap_ms": distribution(gaps),
                "gap_without_encodes_ms": distribution(quiet),
            }
        )


async def _timed(fleet: VllmFleet, encode: EncodeOne, side: int, rng: random.Random) -> float:
    png = noise_png(3 * side * side // 1024, rng)
    path = fleet.programs.folder / f"{rng.getrandbits(64):x}.png"
    path.write_bytes(png)
    start_s = time.monotonic()
    await encode(png, path)
    took_ms = 1e3 * (time.monotonic() - start_s)
    path.unlink()
    return took_ms


async def _beside_streams(
    fleet: VllmFleet,
    pod: Pod,
    encode: EncodeOne | None,
    side: int,
    rate: float,
    window_s: float,
    rng: random.Random,
) -> tuple[list[float], list[float]]:
    """Run streams for a while, encoding beside them; return their gaps and the encodes' times."""
    gaps = Gaps()
    stop = asyncio.Event()
    streams = [asyncio.create_task(_stream(pod, gaps, stop, rng)) for _ in range(STREAMS)]
    await asyncio.sleep(1.0)
    gaps.ms.clear()
    encodes: list[asyncio.Task[float]] = []
    end_s = time.monotonic() + window_s
    while time.monotonic() < end_s:
        if encode is not None:
            encodes.append(asyncio.create_task(_timed(fleet, encode, side, rng)))
        await asyncio.sleep(1 / rate)
    measured = list(gaps.ms)
    took_ms = list(await asyncio.gather(*encodes))
    stop.set()
    await asyncio.gather(*streams)
    return measured, took_ms


async def _stream(pod: Pod, gaps: Gaps, stop: asyncio.Event, rng: random.Random) -> None:
    """Keep one stream running."""
    while not stop.is_set():
        prompt = [rng.randrange(10, 400) for _ in range(32)]
        body = {"prompt": prompt, "max_tokens": 400, "ignore_eos": True}
        work = _work(Api.COMPLETIONS, body)
        outcome = await pod.run("stream", work, gaps.listener())
        if not isinstance(outcome.result, Completed):
            raise MeasurementError(f"a stream: {outcome.result}")


async def _between_steps(pod: Pod, png: bytes) -> None:
    outcome = await pod.run("encode", Encode(Image(png, "image/png")))
    if not isinstance(outcome.result, EcHandle):
        raise MeasurementError(f"an encode: {outcome.result}")
    pod.release(outcome.result.identifier)


async def _placeholder(pod: Pod, png: bytes) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}0"}}
    body = {"messages": [{"role": "user", "content": [picture]}], "max_tokens": 1}
    work = _work(Api.CHAT_COMPLETIONS, body, images=(Image(png, "image/png"),))
    outcome = await pod.run("placeholder", work)
    if not isinstance(outcome.result, Completed):
        raise MeasurementError(f"a placeholder: {outcome.result}")


def _work(api: Api, body: dict[str, Any], **fields: Any) -> Generate:
    given = {"model": MODEL, "temperature": 0, "stream": True, **body}
    return Generate(
        phase=Phase.WHOLE,
        api=api,
        body=json.dumps(given).encode(),
        stream=True,
        response_id="encode-ways",
        created_s=CREATED_S,
        **fields,
    )


def _report(found: dict[str, Any], facts: dict[str, Any]) -> Report:
    from statistic import median_of

    columns = (
        "way", "image px", "alone ms", "beside p50", "p99 ms", "gap p50", "gap p99", "gap max",
        "no encodes: p50", "p99",
    )  # fmt: skip
    rows = [
        (
            name,
            side,
            median_of(rounds, "alone_ms"),
            median_of(rounds, "beside_streams_ms", "p50"),
            median_of(rounds, "beside_streams_ms", "p99"),
            median_of(rounds, "gap_ms", "p50"),
            median_of(rounds, "gap_ms", "p99"),
            median_of(rounds, "gap_ms", "max"),
            median_of(rounds, "gap_without_encodes_ms", "p50"),
            median_of(rounds, "gap_without_encodes_ms", "p99"),
        )
        for name, by_side in found.items()
        for side, rounds in by_side.items()
    ]
    engines = [
        (
            name,
            fact["start_s"],
            sum(entry["rss"] for entry in fact["memory"]),
            sum(entry["pss"] for entry in fact["memory"]),
        )
        for name, fact in facts.items()
    ]
    tables = [
        Table(f"Encodes beside {STREAMS} running streams (medians of the rounds)", columns, rows),
        Table("Engines", ("", "start s", "MiB", "MiB, shared once"), engines),
    ]
    figures = {"ways": [dict(zip(columns, row, strict=True)) for row in rows], "engines": facts}
    return Report(tables, figures, found)
