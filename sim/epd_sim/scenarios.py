"""Traffic worth looking at, by name: smooth, bursty, drifting, and what the public traces hold."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sin
from typing import Final

import numpy as np

from epd_sim.results import Slo, Tpot
from epd_sim.workload import Request, Shape, Workload, gamma_gaps, poisson_gaps

Mix = Callable[[float, np.random.Generator], Shape]
"""Draws a request that comes at a given second."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named kind of traffic.

    Attributes:
        name: What it is called on a command line.
        summary: One line.
        make: Draws it: (requests a second, seconds, seed).
        slo: The objective that belongs to it.
    """

    name: str
    summary: str
    make: Callable[[float, float, int], list[Request]]
    slo: Slo


def chat(rng: np.random.Generator) -> Shape:
    """Draw a chat without images: a prompt of about 400 tokens, a long answer of about 1,200."""
    return Shape(around(400, 0.8, rng), around(1200, 0.6, rng))


def caption(rng: np.random.Generator) -> Shape:
    """Draw a question about one to three images of 1,024 to 2,040 tokens; a short answer."""
    images = tuple(int(rng.choice((1024, 1344, 2040))) for _ in range(int(rng.integers(1, 4))))
    return Shape(around(80, 0.5, rng), around(60, 0.6, rng), images)


def square_wave(
    rate: float,
    seconds: float,
    seed: int,
    *,
    period_s: float = 240.0,
    low: float = 0.1,
    high: float = 0.9,
) -> list[Request]:
    """Return traffic whose share of requests with images jumps between `low` and `high`."""

    def mix(now_s: float, rng: np.random.Generator) -> Shape:
        share = high if now_s % period_s < period_s / 2 else low
        return caption(rng) if rng.random() < share else chat(rng)

    return _mixed(rate, seconds, seed, mix)


def drift(rate: float, seconds: float, seed: int) -> list[Request]:
    """Return traffic whose image share follows a sine of ten minutes between 0 and 1."""

    def mix(now_s: float, rng: np.random.Generator) -> Shape:
        share = 0.5 + 0.5 * sin(2 * pi * now_s / 600.0)
        return caption(rng) if rng.random() < share else chat(rng)

    return _mixed(rate, seconds, seed, mix)


def smooth(rate: float, seconds: float, seed: int) -> list[Request]:
    """Return a steady mix: half of the requests have images."""
    return _mixed(
        rate, seconds, seed, lambda _, rng: caption(rng) if rng.random() < 0.5 else chat(rng)
    )


def bursts(rate: float, seconds: float, seed: int) -> list[Request]:
    """Return the same mix in bursts: gamma gaps with a coefficient of variation of 4."""
    rng = np.random.default_rng(seed)
    requests: list[Request] = []
    now_s = 0.0
    for gap in gamma_gaps(rate, 4.0, rng):
        now_s += gap
        if now_s >= seconds:
            return requests
        shape = caption(rng) if rng.random() < 0.5 else chat(rng)
        requests.append(Request(len(requests), now_s, shape))
    return requests


def with_offline(workload: Workload, rate: float, seconds: float, seed: int) -> list[Request]:
    """Return the same traffic with offline chats beside it, so many a second."""
    rng = np.random.default_rng(seed)
    arrivals = [(request.arrival_s, request.shape) for request in workload]
    now_s = 0.0
    for gap in poisson_gaps(rate, rng):
        now_s += gap
        if now_s >= seconds:
            break
        arrivals.append((now_s, replace(chat(rng), online=False)))
    arrivals.sort(key=lambda arrival: arrival[0])
    return [Request(index, at_s, shape) for index, (at_s, shape) in enumerate(arrivals)]


def at_rate(workload: Workload, rate: float, seconds: float) -> list[Request]:
    """Return a trace's requests at another mean rate, repeated or cut to so many seconds.

    Times are scaled by one constant, as Arrow's evaluation does: bursts stay bursts.
    """
    span_s = workload[-1].arrival_s or 1.0
    factor = len(workload) / span_s / rate
    requests: list[Request] = []
    offset_s = 0.0
    while True:
        for request in workload:
            now_s = offset_s + request.arrival_s * factor
            if now_s >= seconds:
                return requests
            requests.append(Request(len(requests), now_s, request.shape))
        offset_s += span_s * factor


def _mixed(rate: float, seconds: float, seed: int, mix: Mix) -> list[Request]:
    rng = np.random.default_rng(seed)
    requests: list[Request] = []
    now_s = 0.0
    for gap in poisson_gaps(rate, rng):
        now_s += gap
        if now_s >= seconds:
            break
        requests.append(Request(len(requests), now_s, mix(now_s, rng)))
    return requests


def around(mean: float, spread: float, rng: np.random.Generator) -> int:
    """Draw a log-normal number of tokens with this mean."""
    return max(1, int(rng.lognormal(np.log(mean) - spread**2 / 2, spread)))


_CHAT_SLO: Final = Slo(ttft_ms=2000.0, tpot_ms=50.0, tpot=Tpot.P90)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("smooth", "half of the requests with images, steady", smooth, _CHAT_SLO),
        Scenario("bursts", "the same in bursts (gamma gaps, cv 4)", bursts, _CHAT_SLO),
        Scenario("square-wave", "image share jumps between 10 % and 90 %", square_wave, _CHAT_SLO),
        Scenario("drift", "image share follows a sine of ten minutes", drift, _CHAT_SLO),
    )
}
