"""What the loop needs of the world, and whom it tells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from epd.policy.control_view import Decision, Flip
from epd.vocabulary import Role
from epd_operator.control.signals import Traffic


class MetricsUnavailable(Exception):
    """The metrics cannot be read; the message is one line."""


class CountingBegun(MetricsUnavailable):
    """What counts has been seen once, and says nothing yet; nothing is wrong."""


class FlipRefused(Exception):
    """A flip was not made, for the pod is not as it was when it was decided; one line."""


@dataclass(frozen=True, slots=True)
class FleetPod:
    """One pod, as the cluster says now.

    Attributes:
        name: The pod's name.
        role: Its role.
        ready: It serves.
        settled: Every gateway places by this role.
        flipped_at_s: When its role last changed, by the loop's clock; None: never.
    """

    name: str
    role: Role
    ready: bool = True
    settled: bool = True
    flipped_at_s: float | None = None


class Metrics(Protocol):
    """Where traffic is read."""

    async def read(self) -> Traffic:
        """Return the traffic of the last seconds.

        Raises:
            MetricsUnavailable: Nothing, or nothing to rely on, could be read.
        """
        ...


class Fleet(Protocol):
    """The pods of one cluster."""

    async def pods(self) -> Sequence[FleetPod]:
        """Return the pods as they are now."""
        ...

    async def flip(self, flip: Flip) -> None:
        """Change a pod's role, if it still has the one it had.

        Raises:
            FlipRefused: It has another, or is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of the loop.

    Attributes:
        decision: What was decided.
        enacted: The flips that were made.
        problem: What stood in the way of observing or enacting, one line; empty: nothing.
        traffic: What was observed; None: nothing could be.
    """

    decision: Decision
    enacted: tuple[Flip, ...] = ()
    problem: str = ""
    traffic: Traffic | None = None


class Reporter(Protocol):
    """Whoever is told of each pass."""

    async def report(self, done: Pass) -> None:
        """Take note of a pass."""
        ...
