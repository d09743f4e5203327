"""Plans the worker pods: which to create, flip, drain and delete. Pure.

Each pass starts from the pods as they are and takes the next safe step towards what the spec asks
for; nothing is remembered between passes. A pod that serves is never deleted before it was drained:
the gateways first place nothing new on it, and it goes once it is idle or a deadline has passed.
Names are the lowest free numbers, so that a creation repeated after a crash meets itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum, unique
from typing import Any, Final

from epd.vocabulary import ASSIGNED_ROLE, DRAIN_REASON, DRAIN_STARTED, DRAINING, Role
from epd_operator.actions import Create, Delete, Note, Patch, Steps
from epd_operator.manifests_worker import revision_of, role_labels, worker_pod
from epd_operator.objects import timestamp
from epd_operator.split import Split, fitted, lacking
from epd_operator.wanted import Wanted
from epd_operator.worker_pods import WorkerPod

DRAIN_SETTLE_S: Final = 3.0
"""Before a drained pod's load is believed: gateways must have seen the mark."""

DRAIN_UNKNOWN_S: Final = 10.0
"""A drained pod that does not say how much it does goes after so long; it drains itself then."""

DRAIN_POLL_S: Final = 1.0
ENDED_PAUSE_S: Final = 10.0
"""Youngest age of an ended pod that is replaced: a node that refuses all must not be stormed."""


@unique
class DrainReason(StrEnum):
    """Why the operator drains a pod."""

    SCALE_DOWN = "ScaleDown"
    UPGRADE = "Upgrade"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The worker pods as they are.

    Attributes:
        pods: Those that the cluster owns.
        taken_names: Names that no new pod can have, whoever has them.
        recorded: The split that was last reported; empty at the beginning.
        in_flight: Work in flight by pod name, where that was asked for and answered.
    """

    pods: Sequence[WorkerPod] = ()
    taken_names: frozenset[str] = frozenset()
    recorded: Split = field(default_factory=dict)
    in_flight: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def present(self) -> list[WorkerPod]:
        """The pods that are neither ended nor on their way out."""
        return [pod for pod in self.pods if not pod.is_terminating and not pod.is_ended]

    @property
    def terminating(self) -> list[WorkerPod]:
        """The pods that are deleted and not yet gone."""
        return [pod for pod in self.pods if pod.is_terminating]

    @property
    def staying(self) -> list[WorkerPod]:
        """The pods that take new work, or will."""
        return [pod for pod in self.present if not pod.is_draining]

    @property
    def leaving(self) -> list[WorkerPod]:
        """The pods that are being drained."""
        return [pod for pod in self.present if pod.is_draining]


def plan_workers(wanted: Wanted, fleet: Fleet, now: datetime, steps: Steps) -> Split:
    """Add the next steps to `steps`; return the split that the fleet should have."""
    revision = revision_of(wanted)
    _replace_ended(wanted, fleet, now, steps)
    _finish_drains(wanted, fleet, now, steps)
    split = target_split(wanted, fleet, revision)
    staying = _with_roles(wanted, fleet.staying, split, steps)
    fresh = [pod for pod in staying if pod.revision == revision]
    outdated = [pod for pod in staying if pod.revision != revision]
    kept = _keep_drained(wanted, fleet, revision, len(staying), steps)
    missing = wanted.spec.replicas - len(fresh) - len(kept)
    if any(pod.revision != revision and not pod.is_ended for pod in fleet.pods):
        # Without a surge there is no spare GPU: one that goes has its own until it is gone.
        held = fleet.present if wanted.max_surge else [*fleet.present, *fleet.terminating]
        room = wanted.spec.replicas + wanted.max_surge - len(held)
        missing = min(missing, room)
    has = Counter(pod.role for pod in [*fresh, *kept] if pod.role)
    _create(wanted, fleet, lacking(split, has)[: max(missing, 0)], steps)
    _drain(_outdated_to_go(wanted, outdated, staying), DrainReason.UPGRADE, now, steps)
    excess = _excess(wanted, fresh, split, fleet.in_flight)
    _drain(excess, DrainReason.SCALE_DOWN, now, steps)
    return split


def target_split(wanted: Wanted, fleet: Fleet, revision: str) -> Split:
    """Return how many pods each role should have.

    A complete fleet is right as it is: whoever flipped its pods meant it.
    """
    staying, method = fleet.staying, set(wanted.method.roles)
    counts = Counter(pod.role for pod in staying if pod.role)
    is_complete = len(staying) == wanted.spec.replicas and all(
        pod.revision == revision and pod.role and (pod.role in method or pod.is_flipped)
        for pod in staying
    )
    if is_complete and wanted.respects_flips:
        return {role: counts[role] for role in Role if counts[role] or role in method}
    return fitted(fleet.recorded or counts, wanted.first_split, wanted.bounds)


def relabelled(role: Role) -> dict[str, Any]:
    """Return the patch that gives a pod a role on the operator's behalf."""
    return {"metadata": {"labels": role_labels(role), "annotations": {ASSIGNED_ROLE: role.value}}}


def _replace_ended(wanted: Wanted, fleet: Fleet, now: datetime, steps: Steps) -> None:
    for pod in fleet.pods:
        if not pod.is_ended or pod.is_terminating:
            continue
        wait_s = ENDED_PAUSE_S - (now - pod.created).total_seconds()
        if wait_s > 0:
            steps.within(wait_s)
            continue
        why = f" ({pod.trouble.reason})" if pod.trouble else ""
        note = Note("PodReplaced", f"{pod.name} has ended{why} and is replaced", pod.name, True)
        steps.actions.append(Delete(pod.ref, pod.uid, note))


def _finish_drains(wanted: Wanted, fleet: Fleet, now: datetime, steps: Steps) -> None:
    for pod in fleet.leaving:
        if pod.draining_since is None:
            # A user began it: give it the same time that we would.
            body = {"metadata": {"annotations": {DRAIN_STARTED: timestamp(now)}}}
            steps.actions.append(Patch(pod.ref, pod.version, body))
            steps.within(DRAIN_POLL_S)
            continue
        age_s = (now - pod.draining_since).total_seconds()
        work = fleet.in_flight.get(pod.name)
        is_done = age_s >= (DRAIN_UNKNOWN_S if work is None else DRAIN_SETTLE_S) and not work
        if not pod.is_ready or is_done or age_s >= wanted.drain_deadline_s:
            left = f" with {work} in flight" if work else ""
            note = Note("PodDeleted", f"{pod.name} is drained{left} and deleted", pod.name)
            steps.actions.append(Delete(pod.ref, pod.uid, note))
        else:
            steps.within(DRAIN_POLL_S)


def _with_roles(
    wanted: Wanted, staying: Sequence[WorkerPod], split: Split, steps: Steps
) -> list[WorkerPod]:
    """Give a role to pods whose own is not theirs to have; return all that have one."""
    method = set(wanted.method.roles)
    settled: list[WorkerPod] = []
    strays: list[WorkerPod] = []
    for pod in sorted(staying, key=_by_age):
        role = _rightful_role(wanted, pod)
        is_users_own = pod.is_flipped and role is pod.role
        if role is None or (role not in method and not is_users_own):
            strays.append(pod)
        else:
            settled.append(_relabel(pod, role, steps))
    needed = lacking(split, Counter(pod.role for pod in settled if pod.role))
    roles = [*needed, *([wanted.method.roles[-1]] * len(strays))]
    settled += (_relabel(pod, role, steps) for pod, role in zip(strays, roles, strict=False))
    return settled


def _rightful_role(wanted: Wanted, pod: WorkerPod) -> Role | None:
    if pod.role is None or (pod.is_flipped and not wanted.respects_flips):
        return pod.assigned
    return pod.role


def _relabel(pod: WorkerPod, role: Role, steps: Steps) -> WorkerPod:
    if pod.role is not role:
        was = pod.role.value if pod.role else "none"
        note = Note("RoleChanged", f"{pod.name}: {was} becomes {role.value}", pod.name)
        steps.actions.append(Patch(pod.ref, pod.version, relabelled(role), note))
    elif pod.llm_d_role != role.value:
        body = {"metadata": {"labels": role_labels(role)}}
        note = Note("RoleChanged", f"{pod.name} is {role.value} by its label", pod.name)
        steps.actions.append(Patch(pod.ref, pod.version, body, note))
    return replace(pod, role=role)


def _keep_drained(
    wanted: Wanted, fleet: Fleet, revision: str, staying: int, steps: Steps
) -> list[WorkerPod]:
    """Call pods back that were to go only because the fleet was to shrink."""
    candidates = [
        pod
        for pod in fleet.leaving
        if pod.drain_reason == DrainReason.SCALE_DOWN and pod.revision == revision and pod.is_ready
    ]
    kept = candidates[: max(wanted.spec.replicas - staying, 0)]
    going = {action.ref for action in steps.actions if isinstance(action, Delete)}
    for pod in kept:
        if pod.ref in going:
            continue
        body = {
            "metadata": {
                "labels": {DRAINING: None},
                "annotations": {DRAIN_STARTED: None, DRAIN_REASON: None},
            }
        }
        note = Note("PodKept", f"{pod.name} is wanted again and takes work", pod.name)
        steps.actions.append(Patch(pod.ref, pod.version, body, note))
    return [pod for pod in kept if pod.ref not in going]


def _create(wanted: Wanted, fleet: Fleet, roles: Sequence[Role], steps: Steps) -> None:
    taken = fleet.taken_names | {pod.name for pod in fleet.pods}
    number = 0
    for role in roles:
        while (name := f"{wanted.key.name}-{number}") in taken:
            number += 1
        number += 1
        note = Note("PodCreated", f"{name} is created as {role.value}", name)
        steps.actions.append(Create(worker_pod(wanted, name, role), note))


def _outdated_to_go(
    wanted: Wanted, outdated: Sequence[WorkerPod], staying: Sequence[WorkerPod]
) -> list[WorkerPod]:
    """Return the pods of an older revision that can go now without too few pods serving."""
    idle = [pod for pod in outdated if not pod.is_ready]
    serving = sum(pod.is_ready for pod in staying)
    spare = serving - (wanted.spec.replicas - wanted.max_unavailable)
    # Roles that the newer pods have already: those of the older ones go first.
    newer = Counter(pod.role for pod in staying if pod not in outdated and pod.is_ready)
    ready = sorted(
        (pod for pod in outdated if pod.is_ready),
        key=lambda pod: (-newer[pod.role], _by_age(pod)),
    )
    return [*idle, *ready[: max(spare, 0)]]


def _excess(
    wanted: Wanted,
    fresh: Sequence[WorkerPod],
    split: Split,
    in_flight: Mapping[str, int | None],
) -> list[WorkerPod]:
    """Return the pods that are too many: useless ones first, then those with least work.

    No role falls below its minimum as long as another can give.
    """
    pool, counts = list(fresh), Counter(pod.role for pod in fresh if pod.role)
    least = {role: bound.min_pods for role, bound in wanted.bounds.items()}
    victims: list[WorkerPod] = []

    def cost(pod: WorkerPod) -> tuple[Any, ...]:
        role = pod.role or Role.ENCODE_PREFILL_DECODE
        surplus = counts[role] - split.get(role, 0)
        work = in_flight.get(pod.name) or 0
        return (pod.is_ready, -surplus, work, -pod.created.timestamp(), pod.name)

    while len(pool) > wanted.spec.replicas:
        spare = [pod for pod in pool if pod.role and counts[pod.role] > least.get(pod.role, 0)]
        victim = min(spare or pool, key=cost)
        pool.remove(victim)
        if victim.role:
            counts[victim.role] -= 1
        victims.append(victim)
    return victims


def _drain(pods: Sequence[WorkerPod], reason: DrainReason, now: datetime, steps: Steps) -> None:
    """Begin to drain pods that serve; delete those that do not."""
    for pod in pods:
        if not pod.is_ready:
            note = Note("PodDeleted", f"{pod.name} does not serve and is deleted", pod.name)
            steps.actions.append(Delete(pod.ref, pod.uid, note))
            continue
        body = {
            "metadata": {
                "labels": {DRAINING: "true"},
                "annotations": {DRAIN_STARTED: timestamp(now), DRAIN_REASON: reason.value},
            }
        }
        note = Note("PodDraining", f"{pod.name} is drained ({reason.value})", pod.name)
        steps.actions.append(Patch(pod.ref, pod.version, body, note))
        steps.within(DRAIN_SETTLE_S)


def _by_age(pod: WorkerPod) -> tuple[datetime, str]:
    return pod.created, pod.name
