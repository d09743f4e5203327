"""The loop: observe, decide, enact, report.

Nothing of a pass must be remembered: roles and the times of flips are read from the cluster each
time. What is kept between passes (`Memory`) smooths; a loop that starts anew is only slower.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import time_ns

from epd.api.names import ControlMode
from epd.policy.control import ControlMemory, decide
from epd.policy.control_view import Flip
from epd.policy.curves import CostCurves
from epd.tracing import Tracing
from epd_operator.control.pass_trace import trace_pass
from epd_operator.control.ports import (
    CountingBegun,
    Fleet,
    FlipRefused,
    Metrics,
    MetricsUnavailable,
    Pass,
    Reporter,
)
from epd_operator.control.translate import Aim, Known, learnt, view_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """What one pass hands to the next; the default is a fresh start."""

    control: ControlMemory = field(default_factory=ControlMemory)
    known: Known = field(default_factory=Known)


@dataclass(frozen=True, slots=True)
class Controller:
    """The loop of one cluster.

    Attributes:
        fleet: Its pods.
        metrics: Its traffic.
        reporter: Told of each pass.
        clock: Seconds; the clock of `FleetPod.flipped_at_s`.
        aim: What its spec says.
        mode: Active enacts, Shadow only reports.
        curves: What stages cost; None: as the workers measured.
        tracing: Makes a span of each pass; None: nobody wants any.
        name: The cluster's, for those spans.
    """

    fleet: Fleet
    metrics: Metrics
    reporter: Reporter
    clock: Callable[[], float]
    aim: Aim
    mode: ControlMode
    curves: CostCurves | None = None
    tracing: Tracing | None = None
    name: str = ""

    async def run(self, interval_s: float) -> None:
        """Make a pass every `interval_s`, until cancelled; what goes wrong is for the next pass."""
        memory = Memory()
        while True:
            try:
                memory = await self.run_once(memory)
            except Exception:
                log.exception("a pass of the control loop failed")
            await asyncio.sleep(interval_s)

    async def run_once(self, memory: Memory) -> Memory:
        """Make one pass."""
        began_ns = time_ns()
        problem, traffic, known = "", None, memory.known
        try:
            traffic = await self.metrics.read()
            known = learnt(known, traffic)
        except CountingBegun:
            return memory  # what was reported before a restart of ours still holds
        except MetricsUnavailable as error:
            problem = f"metrics: {error}"
        pods = await self.fleet.pods()
        view = view_of(self.clock(), pods, traffic, self.aim, known, self.curves)
        decision, control = decide(view, memory.control)
        enacted: tuple[Flip, ...] = ()
        if self.mode is ControlMode.ACTIVE:
            enacted, refused = await self._enact(decision.flips)
            problem = problem or refused
        done = Pass(decision, enacted, problem, traffic)
        await self.reporter.report(done)
        if self.tracing is not None:
            trace_pass(self.tracing, self.name, began_ns, done)
        return Memory(control, known)

    async def _enact(self, flips: tuple[Flip, ...]) -> tuple[tuple[Flip, ...], str]:
        """Flip one after the other; return what was done, and what stood in the way."""
        enacted: list[Flip] = []
        for flip in flips:
            try:
                await self.fleet.flip(flip)
            except FlipRefused as error:
                return tuple(enacted), f"{flip.pod}: {error}"
            enacted.append(flip)
        return tuple(enacted), ""
