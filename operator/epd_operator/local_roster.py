"""The roster of a cluster on this machine: the file that the gateway follows.

Two writers change it, `epd up` (pods come and go) and `epd flip` (roles change), each under a lock
and by replacing the whole file. Every change has the next version, so that a writer can tell when
the gateway has applied it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from epd.vocabulary import Role, Stage
from epd_operator import local_state
from epd_operator.local_state import LocalError


class RosterPod(BaseModel):
    """One pod that the gateway may use; `address` is HOST:PORT of its gRPC service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    address: str
    role: Role


class Roster(BaseModel):
    """All pods that the gateway may use.

    Attributes:
        version: Grows with every change.
        cluster: The cluster's name.
        model: The served model name.
        workers: The pods, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    cluster: str
    model: str
    workers: tuple[RosterPod, ...] = ()

    def role_of(self, name: str) -> Role | None:
        """Return the role of a pod; None if it is not in the roster."""
        return next((pod.role for pod in self.workers if pod.name == name), None)

    def with_pod(self, pod: RosterPod) -> "Roster":
        """Return the next roster, in which `pod` stands under its name."""
        others = [other for other in self.workers if other.name != pod.name]
        return self._next((*others, pod))

    def without_pod(self, name: str) -> "Roster":
        """Return the next roster, in which no pod has this name."""
        return self._next(tuple(pod for pod in self.workers if pod.name != name))

    def uncovered_stages(self) -> list[Stage]:
        """Return the stages that no pod is offered."""
        offered = {stage for pod in self.workers for stage in pod.role.stages}
        return [stage for stage in Stage if stage not in offered]

    def _next(self, pods: tuple[RosterPod, ...]) -> "Roster":
        ordered = tuple(sorted(pods, key=lambda pod: pod.name))
        return self.model_copy(update={"version": self.version + 1, "workers": ordered})


@dataclass(frozen=True, slots=True)
class Flip:
    """A role change that is written; done once the gateway has seen `version`."""

    pod: str
    before: Role
    after: Role
    version: int


class RosterFile:
    """The roster on disk."""

    def __init__(self, path: Path) -> None:
        """Name the file; `create` writes the first, empty roster."""
        self.path = path

    def create(self, cluster: str, model: str) -> None:
        """Write the first roster of a cluster, without pods."""
        self._write(Roster(cluster=cluster, model=model))

    def read(self) -> Roster:
        """Return the present roster."""
        return Roster.model_validate_json(self.path.read_bytes())

    def add(self, pod: RosterPod) -> int:
        """Put a pod in and return the version that has it."""
        with self._changing() as change:
            change.roster = change.roster.with_pod(pod)
        return change.roster.version

    def remove(self, name: str) -> Role | None:
        """Take a pod out; return the role it had, None if it was not in."""
        with self._changing() as change:
            role = change.roster.role_of(name)
            if role is not None:
                change.roster = change.roster.without_pod(name)
        return role

    def flip(self, name: str, role: Role, *, before: Role | None = None) -> Flip:
        """Change the role of a pod; with `before`, only if it has that one.

        Raises:
            LocalError: No such pod is in the roster, or its role is another than `before`.
        """
        with self._changing() as change:
            pod = next((pod for pod in change.roster.workers if pod.name == name), None)
            if pod is None:
                present = ", ".join(pod.name for pod in change.roster.workers) or "none"
                raise LocalError(f"pod {name!r} is not in the roster; pods: {present}")
            if before not in (None, pod.role):
                raise LocalError(f"pod {name!r} has the role {pod.role} now, not {before}")
            if pod.role is not role:
                flipped = pod.model_copy(update={"role": role})
                change.roster = change.roster.with_pod(flipped)
        return Flip(pod=name, before=pod.role, after=role, version=change.roster.version)

    @contextmanager
    def _changing(self) -> Iterator["_Change"]:
        """Hold the lock; write `roster` if the block replaced it."""
        with self.path.with_name(f"{self.path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self.read()
            change = _Change(before)
            yield change
            if change.roster is not before:
                self._write(change.roster)

    def _write(self, roster: Roster) -> None:
        local_state.replace(self.path, roster.model_dump_json(indent=2))


@dataclass(slots=True)
class _Change:
    roster: Roster
