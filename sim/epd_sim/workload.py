"""Requests and when they arrive. Everything is drawn from a seeded generator, in one order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

Draw = Callable[[np.random.Generator], "Shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a request is made of.

    Attributes:
        text_tokens: Tokens of its prompt that are not of images.
        output_tokens: Tokens of its answer, at least one.
        image_tokens: Tokens of each of its images.
        image_keys: What the images are; equal keys, equal content. Empty: all different.
        prefix_keys: What its prompt's leading blocks are, for prefix caches: equal keys, equal
            prompts up to there. Empty: it begins like no other.
        online: It has a client who waits; False: best effort.
    """

    text_tokens: int
    output_tokens: int
    image_tokens: tuple[int, ...] = ()
    image_keys: tuple[int, ...] = ()
    prefix_keys: tuple[int, ...] = ()
    online: bool = True

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt."""
        return self.text_tokens + sum(self.image_tokens)


@dataclass(frozen=True, slots=True)
class Request:
    """A shape at a time.

    Attributes:
        index: Its number, in order of arrival.
        arrival_s: When it comes.
        shape: What it is made of.
    """

    index: int
    arrival_s: float
    shape: Shape


Workload = Sequence[Request]
EMPTY: Final[Workload] = ()


def poisson_gaps(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Yield the seconds between arrivals of a Poisson process of `rate` requests a second."""
    while True:
        yield from rng.exponential(1.0 / rate, 4096).tolist()


def gamma_gaps(rate: float, cv: float, rng: np.random.Generator) -> Iterator[float]:
    """Yield gamma gaps; `cv` is their coefficient of variation (1: Poisson, above: bursts)."""
    shape = 1.0 / cv**2
    while True:
        yield from rng.gamma(shape, 1.0 / (rate * shape), 4096).tolist()


def arrive(
    gaps: Iterator[float],
    draw: Draw,
    rng: np.random.Generator,
    *,
    count: int | None = None,
    seconds: float = float("inf"),
) -> list[Request]:
    """Return `count` requests, or those of the first `seconds`, whichever ends first."""
    requests: list[Request] = []
    now_s = 0.0
    while count is None or len(requests) < count:
        now_s += next(gaps)
        if now_s >= seconds:
            break
        requests.append(Request(len(requests), now_s, draw(rng)))
    return requests


def merged(*parts: Workload) -> list[Request]:
    """Return several workloads as one, in order of arrival."""
    everything = sorted((r for part in parts for r in part), key=lambda r: r.arrival_s)
    return [Request(i, r.arrival_s, r.shape) for i, r in enumerate(everything)]


def stretched(workload: Workload, factor: float) -> list[Request]:
    """Return the workload at `factor` times its rate: the times are divided by it."""
    return [Request(r.index, r.arrival_s / factor, r.shape) for r in workload]
