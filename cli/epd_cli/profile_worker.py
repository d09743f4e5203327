"""Measures the stages of one live worker, over the session that gateways hold with it.

Times are the worker's own (`service_us`: from a submit's arrival to its end), except for decode
steps, which are the gaps between frames: a frame is one engine step.
"""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Any, Final

import grpc.aio
from PIL import Image as Pictures

from epd.wire.messages import (
    Api,
    Completed,
    Description,
    EcHandle,
    Encode,
    Failure,
    GatewayFrame,
    Generate,
    Image,
    KvHandle,
    Outcome,
    Phase,
    Prefilled,
    Submit,
    WorkerFrame,
)
from epd.wire.service import WorkerClient
from epd_cli.failures import CommandError
from epd_operator import local_probe

_LEAST_TOKEN: Final = 10  # what every vocabulary has, and is no markup in any
_TOKEN_KINDS: Final = 300
_STEPS_OF_MEAN: Final = 8
_MARGIN: Final = 16  # tokens of an answer beyond those that are timed
_MEASUREMENT_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Done:
    """How one piece of work ended.

    Attributes:
        result: What came of it.
        service_ms: From its arrival at the worker to its end.
        handoff_ms: Of that, waiting for EC or KV of another worker.
        token_ids: What it emitted, as a decode elsewhere takes it.
    """

    result: EcHandle | Prefilled | Completed
    service_ms: float
    handoff_ms: float
    token_ids: bytes


class Probe:
    """One session with one worker, which should have nothing else to do.

    Attributes:
        description: What the worker is.
    """

    def __init__(self, client: WorkerClient, description: Description, seed: int) -> None:
        """Open the session. No two prompts or pictures of a seed are equal: no cache helps."""
        self.description = description
        self._rng = random.Random(seed)
        self._call: Any = client.session()
        self._next = 0

    async def encode(self, size: tuple[int, int], images: int) -> tuple[EcHandle, float]:
        """Encode pictures at once; return one handle and the ms until the last was done."""
        done = await self.run(*(self.picture(size) for _ in range(images)))
        handles = [each.result for each in done if isinstance(each.result, EcHandle)]
        await self.release(*handles)
        return handles[0], max(each.service_ms for each in done)

    async def prefill(self, tokens: int) -> tuple[Prefilled, float]:
        """Prefill a prompt; return the result and the ms until its first token was out."""
        (done,) = await self.run(self.prompt(Phase.PREFILL, tokens, 2))
        kept = prefilled(done)
        await self.release(kept.kv)
        return kept, done.service_ms

    async def decode(self, sequences: int, context: int, steps: int) -> tuple[float, float] | None:
        """Decode side by side; return (tokens of all contexts, ms of a step).

        None if the worker never runs so many at once.
        """
        most = steps + 2 * sequences + _MARGIN
        work = [self.prompt(Phase.WHOLE, context, most) for _ in range(sequences)]
        streams = await self._submit(work)
        times_s: list[float] = []
        emitted = 0
        try:
            async with asyncio.timeout(_MEASUREMENT_LIMIT_S):
                while len(times_s) <= steps:
                    frame = await self._read()
                    now_s = monotonic()
                    _fail(frame.outcomes)
                    if frame.outcomes:
                        return None
                    emitted += sum(frame.token_counts)
                    if len(frame.streams) < sequences:
                        times_s.clear()  # another was prefilled meanwhile
                    else:
                        times_s += [now_s] * min(frame.token_counts)
        except TimeoutError:
            return None
        finally:
            await self._write(cancels=streams)
        # Frames may come late and then close together: gaps are averaged over a few, and the
        # median of these means forgets a disturbance.
        ends = zip(times_s, times_s[_STEPS_OF_MEAN:], strict=False)
        step_ms = median((end_s - begin_s) / _STEPS_OF_MEAN * 1e3 for begin_s, end_s in ends)
        return sequences * context + emitted - sequences * steps / 2, step_ms

    def prompt(self, phase: Phase, tokens: int, most: int) -> Generate:
        """Return a new prompt of so many tokens whose answer has `most`."""
        prompt = [_LEAST_TOKEN + self._rng.randrange(_TOKEN_KINDS) for _ in range(max(1, tokens))]
        body = {
            "model": self.description.model,
            "prompt": prompt,
            "max_tokens": most,
            "ignore_eos": True,
            "stream": True,
            "temperature": 0,
        }
        return Generate(phase, Api.COMPLETIONS, json.dumps(body).encode(), stream=True)

    def picture(self, size: tuple[int, int]) -> Encode:
        """Return the encode of a new picture."""
        colour = tuple(self._rng.randrange(256) for _ in range(3))
        picture = Pictures.new("RGB", size, colour)
        picture.putpixel((0, 0), tuple(self._rng.randrange(256) for _ in range(3)))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return Encode(Image(file.getvalue(), "image/png"))

    async def release(self, *handles: EcHandle | KvHandle) -> None:
        """Let the worker forget what nobody will take."""
        kv = [handle.identifier for handle in handles if isinstance(handle, KvHandle)]
        ec = [handle.identifier for handle in handles if isinstance(handle, EcHandle)]
        await self._write(release_kv=kv, release_ec=ec)

    async def run(self, *work: Encode | Generate) -> list[Done]:
        """Submit all at once, and return how each ended.

        Raises:
            CommandError: The worker refused or failed one, or took too long.
        """
        streams = await self._submit(work)
        found: dict[int, Outcome] = {}
        emitted = dict.fromkeys(streams, b"")
        try:
            async with asyncio.timeout(_MEASUREMENT_LIMIT_S):
                while len(found) < len(streams):
                    frame = await self._read()
                    _fail(frame.outcomes)
                    found.update({o.stream: o for o in frame.outcomes if o.stream in emitted})
                    for stream, token_ids in _tokens_of(frame):
                        if stream in emitted:  # else it is of one that was cancelled
                            emitted[stream] += token_ids
        except TimeoutError:
            await self._write(cancels=streams)
            raise CommandError(
                f"the worker took more than {_MEASUREMENT_LIMIT_S:.0f} s; is it busy?"
            ) from None
        return [
            Done(
                _result_of(found[stream]),
                found[stream].service_us / 1e3,
                found[stream].handoff_us / 1e3,
                emitted[stream],
            )
            for stream in streams
        ]

    async def _submit(self, work: Sequence[Encode | Generate]) -> list[int]:
        streams = list(range(self._next + 1, self._next + 1 + len(work)))
        self._next = streams[-1]
        submits = [
            Submit(stream, f"profile-{stream}", piece)
            for stream, piece in zip(streams, work, strict=True)
        ]
        await self._write(submits=submits)
        return streams

    async def _write(self, **fields: Any) -> None:
        await self._call.write(GatewayFrame(**fields))

    async def _read(self) -> WorkerFrame:
        frame = await self._call.read()
        if not isinstance(frame, WorkerFrame):
            raise CommandError("the worker ended the session; its log says why")
        return frame


def prefilled(done: Done) -> Prefilled:
    """Return what a prefill left; CommandError if it left nothing."""
    if not isinstance(done.result, Prefilled):
        raise CommandError("the worker ended an answer with its first token; cannot measure it")
    return done.result


def _tokens_of(frame: WorkerFrame) -> Iterator[tuple[int, bytes]]:
    at = 0
    for stream, count in zip(frame.streams, frame.token_counts, strict=True):
        yield stream, frame.token_ids[at : at + 4 * count]
        at += 4 * count


def _result_of(outcome: Outcome) -> EcHandle | Prefilled | Completed:
    assert not isinstance(outcome.result, Failure)  # noqa: S101 - `_fail` has raised
    return outcome.result


def _fail(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if isinstance(outcome.result, Failure):
            said = outcome.result.body.decode(errors="replace") or outcome.result.message
            raise CommandError(f"the worker refused a measurement: {said[:200]}")


@asynccontextmanager
async def probing(address: str, seed: int) -> AsyncIterator[Probe]:
    """Give a probe of the worker at HOST:PORT.

    Raises:
        CommandError: Nobody answers there, it is not ready, or the connection broke.
    """
    try:
        async with local_probe.worker(address) as client:
            description = await local_probe.describe(client)
            if description is None:
                raise CommandError(f"no worker answers at {address}; epd status shows addresses")
            if not description.ready:
                raise CommandError(f"worker {address} still loads its model; try again later")
            yield Probe(client, description, seed)
    except grpc.aio.AioRpcError as error:
        raise CommandError(f"worker {address}: {error.details()}") from None
