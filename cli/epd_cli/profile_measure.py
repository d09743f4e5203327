"""Measures every stage of a live worker, and handoffs to a second one, in rounds over all sizes.

A size of a stage is a point. Each round measures all points in an order of its own. Prompts and
handoffs, which are short and noisy, go on until every other round says the same of the prompts
(`profile_rounds`). Of an encoder run the shortest time counts, for what else a machine does can
only delay; of a handoff the median, for the taker's steps that it waits for are part of it.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Final

from rich.progress import Progress

from epd_cli.profile_fit import Measured
from epd_cli.profile_handoff import hand_ec, hand_kv
from epd_cli.profile_rounds import disagreement, typical
from epd_cli.profile_sizes import Sizes
from epd_cli.profile_worker import Probe

AGREES: Final = 0.02
MOST_TIMES: Final = 6
"""As many rounds as were asked for so often, and no more."""
STEPS: Final = 40

Key = tuple[str, str, int]
"""Stage or handoff, its size, how many at once."""
Points = Mapping[Key, Callable[[], Awaitable[tuple[int, float]]]]
"""Each measures one size once: (its tokens or bytes, milliseconds)."""


def longest_prompt(probe: Probe) -> int:
    """Return how many tokens of prompt a worker takes, with room for an answer."""
    return max(2, probe.description.max_model_len - 2 * STEPS)


async def measure(
    probe: Probe, taker: Probe | None, sizes: Sizes, rounds: int, progress: Progress
) -> Measured:
    """Measure what fits into the worker.

    Args:
        probe: The worker.
        taker: Who takes what it gives; None: no handoffs.
        sizes: What to measure.
        rounds: How often; prompts and handoffs again as often, until they agree.
        progress: Its one task shows how far it is.
    """
    measured = Measured()
    lengths = (*sizes.prompts, *sizes.held_out)
    encodes = _encodes(probe, sizes, measured)
    prompts: Points = {
        ("prefill", str(n), 1): partial(_prefill, probe, n, measured) for n in lengths
    }
    short = {**prompts, **_handoffs(probe, taker, sizes)}
    first = {**short, **encodes}
    walk = _Walk(progress, (rounds + 1) * len(first) + len(sizes.batches), len(first))
    await walk.round(first)  # connections, caches, what is made at first sight
    walk.found.clear()
    times: list[list[float]] = []
    for points in (first, *(short,) * (MOST_TIMES - 1)):
        walk.expect(0 if points is first else rounds * len(short))
        for _ in range(rounds):
            await walk.round(points)
            times.append([walk.found[point][-1][1] for point in prompts])
        measured.noise = disagreement(times) if len(times) > 1 else None
        if measured.noise is not None and measured.noise <= AGREES:
            break
    measured.rounds = len(times)
    tokens = [walk.found[point][-1][0] for point in prompts]
    ttft = list(zip(tokens, typical(times), strict=True))
    measured.prefill, measured.held_out = ttft[: len(sizes.prompts)], ttft[len(sizes.prompts) :]
    for (kind, _, count), seen in walk.found.items():
        size, times_ms = seen[0][0], [ms for _, ms in seen]
        if kind == "encode":
            measured.encode.append((size, count, min(times_ms)))
        elif kind in ("KV", "EC"):
            measured.handoff.append((kind, size, median(times_ms)))
    measured.encode.sort()
    measured.handoff.sort()
    for sequences in sizes.batches:
        walk.says(f"decode {sequences} at once")
        await _decode(probe, sequences, sizes.contexts, measured)
    return measured


class _Walk:
    """Goes from point to point, and shows where it is.

    Attributes:
        found: By point: (tokens or bytes, milliseconds), in the order of measurement.
    """

    def __init__(self, progress: Progress, steps: int, seed: int) -> None:
        self.found: dict[Key, list[tuple[int, float]]] = {}
        self._progress = progress
        self._task = progress.tasks[0].id
        self._rng = random.Random(seed)
        self._steps = 0
        self.expect(steps)

    def expect(self, steps: int) -> None:
        """Add to what there is to do."""
        self._steps += steps
        self._progress.update(self._task, total=self._steps)

    async def round(self, points: Points) -> None:
        """Measure each point once, in a new order."""
        for key in self._rng.sample(list(points), len(points)):
            kind, size, count = key
            self.says(f"{kind} {count} x {size}")
            self.found.setdefault(key, []).append(await points[key]())

    def says(self, what: str) -> None:
        """Show what comes now."""
        self._progress.update(self._task, description=what, advance=1)


async def _prefill(probe: Probe, tokens: int, measured: Measured) -> tuple[int, float]:
    kept, ms = await probe.prefill(tokens)
    measured.kv_bytes_per_token = kept.kv.size_bytes // max(1, kept.kv.tokens)
    return kept.kv.tokens, ms


def _encodes(probe: Probe, sizes: Sizes, measured: Measured) -> Points:
    async def encode(size: tuple[int, int], images: int) -> tuple[int, float]:
        handle, ms = await probe.encode(size, images)
        measured.ec_bytes_per_token = handle.size_bytes // max(1, handle.tokens)
        return handle.tokens, ms

    return {
        ("encode", _pixels(size), images): partial(encode, size, images)
        for size in sizes.pictures
        for images in sizes.pictures_at_once
    }


def _handoffs(giver: Probe, taker: Probe | None, sizes: Sizes) -> Points:
    if taker is None:
        return {}
    return {
        **{("KV", str(n), 1): partial(hand_kv, giver, taker, n) for n in sizes.prompts},
        **{
            ("EC", _pixels(size), 1): partial(hand_ec, giver, taker, size)
            for size in sizes.pictures
        },
    }


async def _decode(
    probe: Probe, sequences: int, contexts: Sequence[int], measured: Measured
) -> None:
    longest = longest_prompt(probe)
    room = probe.description.kv_capacity_tokens or sequences * longest
    for context in contexts:
        if context > longest - 2 * sequences - 2 * STEPS:
            continue
        if sequences * (context + STEPS + 3 * sequences) > room:
            continue
        if (step := await probe.decode(sequences, context, STEPS)) is not None:
            measured.decode.append((sequences, *step))


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
