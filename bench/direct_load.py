"""The same open-loop load without a gateway: gRPC straight to the workers.

    python bench/direct_load.py --pods HOST:PORT[,HOST:PORT,HOST:PORT] --rate 300 --out FILE

The baseline of what a gateway adds: it does for a request what the gateway's worker side does
(encode, prefill, decode on the given pods; all on one if there is one) and nothing else. Only times
to first token are taken.
"""

import argparse
import asyncio
import gc
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop
from prompts import CREATED_S, Shape, noise_png, prompts, request_body

from epd.wire.messages import (
    IMAGE_REFERENCE_PREFIX,
    Api,
    EcHandle,
    Encode,
    GatewayFrame,
    Generate,
    Image,
    Outcome,
    Phase,
    Prefilled,
    Submit,
)
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient

DISTINCT_REQUESTS = 2048


class Pod:
    """One session with one worker."""

    def __init__(self, address: str) -> None:
        channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._rpc: Any = WorkerClient(channel).session()
        self._channel = channel
        self._outcomes: dict[int, asyncio.Future[Outcome]] = {}
        self._on_event: dict[int, Callable[[bytes], None]] = {}
        self._submits: list[Submit] = []
        self._releases: list[str] = []
        self._wake = asyncio.Event()
        self._last_stream = 0
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    async def run(
        self,
        request_id: str,
        work: Encode | Generate,
        on_event: Callable[[bytes], None] = lambda _: None,
    ) -> Outcome:
        """Do a piece of work; `on_event` is called with the token ids of each event."""
        self._last_stream += 1
        stream = self._last_stream
        self._outcomes[stream] = asyncio.get_running_loop().create_future()
        self._on_event[stream] = on_event
        self._submits.append(Submit(stream, request_id, work))
        self._wake.set()
        return await self._outcomes[stream]

    def release(self, identifier: str) -> None:
        """Release an embedding with the next frame."""
        self._releases.append(identifier)

    async def close(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            submits, self._submits = self._submits, []
            releases, self._releases = self._releases, []
            await self._rpc.write(GatewayFrame(submits=submits, release_ec=releases))

    async def _read(self) -> None:
        while (frame := await self._rpc.read()) is not grpc.aio.EOF:
            at = 0
            for stream, tokens in zip(frame.streams, frame.token_counts, strict=True):
                self._on_event[stream](frame.token_ids[at : at + 4 * tokens])
                at += 4 * tokens
            for outcome in frame.outcomes:
                del self._on_event[outcome.stream]
                self._outcomes.pop(outcome.stream).set_result(outcome)


class Request:
    """One request on its way over the pods."""

    def __init__(self, pods: list[Pod], index: int, shape: Shape, prompt: str, png: bytes) -> None:
        self.identifier = f"direct{index:026d}"
        self._pods = pods
        self._body = request_body(shape, prompt, f"{IMAGE_REFERENCE_PREFIX}0" if png else "")
        self._png = png
        self._start_s = time.monotonic()
        self.ttft_ms = 0.0
        self._first_token = b""

    async def run(self) -> None:
        """Serve it."""
        if len(self._pods) == 1:
            await self._pods[0].run(self.identifier, self._generate(Phase.WHOLE), self._first)
            return
        encode, prefill, decode = self._pods
        images: tuple[Image, ...] = ()
        if self._png:
            image = Image(self._png, "image/png")
            handle = (await encode.run(self.identifier, Encode(image))).result
            assert isinstance(handle, EcHandle), handle  # noqa: S101 - our own workers
            images = (Image(media_type="image/png", ec=handle),)
        work = self._generate(Phase.PREFILL, images=images)
        prefilled = (await prefill.run(self.identifier, work, self._first)).result
        assert isinstance(prefilled, Prefilled), prefilled  # noqa: S101 - likewise
        for image in images:
            if image.ec is not None:
                encode.release(image.ec.identifier)
        work = self._generate(
            Phase.DECODE,
            kv=prefilled.kv,
            rendered=prefilled.rendered,
            emitted_token_ids=self._first_token,
        )
        await decode.run(self.identifier, work)

    def _generate(self, phase: Phase, **fields: Any) -> Generate:
        return Generate(
            phase=phase,
            api=Api.CHAT_COMPLETIONS,
            body=self._body,
            stream=True,
            http_chunks=True,
            response_id=f"chatcmpl-{self.identifier}",
            created_s=CREATED_S,
            **fields,
        )

    def _first(self, token_ids: bytes) -> None:
        if self._first_token:
            return
        self._first_token = token_ids
        self.ttft_ms = 1e3 * (time.monotonic() - self._start_s)


async def run(given: argparse.Namespace) -> dict[str, float]:
    """Run the load; return milliseconds to the first token by response id."""
    shape = Shape(given.model, image_kib=given.image_kib, seed=given.seed)
    count = min(DISTINCT_REQUESTS, 1 + round(given.rate * given.duration_s))
    texts, rng = prompts(shape, count), random.Random(given.seed)
    images = [noise_png(shape.image_kib, rng) if shape.image_kib else b"" for _ in texts]
    pods = [Pod(address) for address in given.pods.split(",")]
    requests: list[tuple[bool, Request]] = []
    tasks = []
    start_s, at_s = time.monotonic(), 0.0
    while (at_s := at_s + rng.expovariate(given.rate)) < given.duration_s:
        if (early_s := start_s + at_s - time.monotonic()) > 0:
            await asyncio.sleep(early_s)
        index = len(requests)
        text, png = texts[index % count], images[index % count]
        request = Request(pods, index, shape, text, png)
        requests.append((at_s >= given.warmup_s, request))
        tasks.append(asyncio.create_task(request.run()))
    await asyncio.gather(*tasks)
    for pod in pods:
        await pod.close()
    return {f"chatcmpl-{r.identifier}": r.ttft_ms for timed, r in requests if timed}


def main() -> None:
    """Run one load and write its times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pods", required=True, metavar="HOST:PORT[,HOST:PORT,HOST:PORT]")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--duration-s", type=float, required=True)
    parser.add_argument("--warmup-s", type=float, required=True)
    parser.add_argument("--image-kib", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    gc.disable()
    given.out.write_text(json.dumps(uvloop.run(run(given))))


if __name__ == "__main__":
    main()
