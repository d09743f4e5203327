"""What lengths cost, from rounds that each measured all of them once. Pure.

A machine drifts: other programs come and go, clocks change. What disturbs a round disturbs all of
its lengths alike, so each time counts as a share of its round's pace, and of these the median.
Of the paces the quickest counts, for what else a machine does can only delay.
"""

from collections.abc import Sequence
from math import exp, log
from statistics import median

Rounds = Sequence[Sequence[float]]
"""Milliseconds above 0: by round, then by length."""


def typical(rounds: Rounds) -> list[float]:
    """Return the milliseconds of each length."""
    paces = [_pace(times) for times in rounds]
    return [min(paces) * share for share in _shares(rounds)]


def disagreement(rounds: Rounds) -> float:
    """Return how far every other round differs from the rest: over the lengths, the median share.

    The error of a measurement of half as many rounds, beyond what is common to all lengths.
    """
    halves = zip(_shares(rounds[::2]), _shares(rounds[1::2]), strict=True)
    return median(abs(even / odd - 1) for even, odd in halves)


def _shares(rounds: Rounds) -> list[float]:
    shares = [[ms / _pace(times) for ms in times] for times in rounds]
    return [median(of_length) for of_length in zip(*shares, strict=True)]


def _pace(times: Sequence[float]) -> float:
    return exp(sum(map(log, times)) / len(times))
