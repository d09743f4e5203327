"""The control loop of a cluster on this machine: flips are changes of the roster file."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from epd.api import EPDCluster
from epd.api.names import ControlMode
from epd.policy.control_view import Flip
from epd.tracing import Tracing
from epd.vocabulary import Role
from epd_operator import local_probe, local_state
from epd_operator.control.curves_file import curves_of_engine
from epd_operator.control.loop import Controller
from epd_operator.control.ports import FleetPod, FlipRefused, Metrics, Pass, Reporter
from epd_operator.control.translate import aim_of
from epd_operator.local_roster import RosterFile
from epd_operator.local_state import LocalError

LEAST_WINDOW_S: Final = 10.0
WINDOW_INTERVALS: Final = 4
"""The window of the rates, in intervals of the loop: long enough to smooth, short enough to act."""

KEPT_FLIPS: Final = 8
"""Passes that flipped something, kept with their reasons."""

ToldPass = Callable[[Pass], None]


class LocalFleet:
    """The pods of the roster file. See `Fleet` of the loop's ports."""

    def __init__(self, roster: RosterFile, admin_url: Callable[[], str]) -> None:
        """Name the file, and the gateway that follows it."""
        self._roster = roster
        self._admin_url = admin_url
        self._roles: dict[str, Role] = {}
        self._flipped: dict[str, tuple[int, float]] = {}

    async def pods(self) -> Sequence[FleetPod]:
        """Return the pods of the roster: those that are ready."""
        roster = self._roster.read()
        applied = await local_probe.applied_version(self._admin_url()) or 0
        now_s = time.monotonic()
        for pod in roster.workers:
            known = self._roles.get(pod.name)
            if known not in (None, pod.role):  # somebody else flips, too
                self._flipped[pod.name] = (roster.version, now_s)
            self._roles[pod.name] = pod.role
        pods = []
        for pod in roster.workers:
            version, flipped_s = self._flipped.get(pod.name, (0, None))
            pods.append(FleetPod(pod.name, pod.role, True, version <= applied, flipped_s))
        return pods

    async def flip(self, flip: Flip) -> None:
        """Change the roster, if the pod still has the role it had."""
        try:
            done = self._roster.flip(flip.pod, flip.to_role, before=flip.from_role)
        except LocalError as error:
            raise FlipRefused(str(error)) from None
        self._roles[flip.pod] = flip.to_role
        self._flipped[flip.pod] = (done.version, time.monotonic())


class LocalReporter:
    """Keeps the last pass in a file for `epd status`, and tells of those that are news."""

    def __init__(self, mode: ControlMode, file: Path, tell: ToldPass) -> None:
        """Write to `file`; call `tell` where something was done or something new hinders."""
        self._mode = mode
        self._file = file
        self._tell = tell
        self._problem = ""
        self._recent: list[dict[str, Any]] = []

    async def report(self, done: Pass) -> None:
        """Take note of a pass."""
        record = {"mode": self._mode, "time": datetime.now(UTC).isoformat(), **pass_json(done)}
        if done.enacted:
            why = {name: record[name] for name in ("time", "enacted", "reasons")}
            self._recent = [why, *self._recent][:KEPT_FLIPS]
        record["recent"] = self._recent
        await asyncio.to_thread(local_state.replace, self._file, json.dumps(record, indent=2))
        if done.enacted or (done.problem and done.problem != self._problem):
            self._tell(done)
        self._problem = done.problem


def pass_json(done: Pass) -> dict[str, Any]:
    """Return a pass as JSON data."""
    decision = done.decision
    return {
        "desired": {str(role): pods for role, pods in decision.desired.items()},
        "flips": [flip_json(flip) for flip in decision.flips],
        "enacted": [flip_json(flip) for flip in done.enacted],
        "hold": str(decision.hold) if decision.hold else None,
        "reasons": [str(reason) for reason in decision.reasons],
        "fleetPods": decision.fleet_pods,
        "urgent": decision.urgent,
        "problem": done.problem,
    }


def flip_json(flip: Flip) -> dict[str, str]:
    """Return a flip as JSON data."""
    return {"pod": flip.pod, "from": flip.from_role, "to": flip.to_role}


def controller_of(
    cluster: EPDCluster,
    roster: RosterFile,
    admin_url: Callable[[], str],
    metrics: Metrics,
    reporter: Reporter,
    tracing: Tracing | None = None,
) -> Controller:
    """Return the loop of a cluster on this machine."""
    return Controller(
        fleet=LocalFleet(roster, admin_url),
        metrics=metrics,
        reporter=reporter,
        clock=time.monotonic,
        aim=aim_of(cluster),
        mode=cluster.spec.control.mode,
        curves=curves_of_engine(cluster.spec.engine, read_file=True),
        tracing=tracing,
        name=cluster.metadata.name,
    )


def window_s(interval_s: float) -> float:
    """Return what rates are averaged over."""
    return max(LEAST_WINDOW_S, WINDOW_INTERVALS * interval_s)
