"""One pass over one cluster: observe, plan, enact, report.

A pass knows nothing of the pass before it. Whatever it finds, it takes the next safe steps; that
the operator was killed between any two calls, or that the world moved while it looked, only means
that the next pass finds another world.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from epd.api.load import validate_cluster
from epd.api.names import RoleName
from epd.api.problems import ClusterError
from epd.vocabulary import CLUSTER_LABEL, COMPONENT_LABEL, FINALIZER, Component, Role
from epd_operator import conditions
from epd_operator.actions import Patch, Steps
from epd_operator.certificates import expiries
from epd_operator.conditions import Found
from epd_operator.enact import Enacted, enact
from epd_operator.manifests_gateway import gateway_name
from epd_operator.manifests_tls import authority_secret, leaf_secret
from epd_operator.manifests_worker import revision_of
from epd_operator.notes import tell
from epd_operator.objects import Key, Kind, Manifest, Ref, is_controlled_by, labels_of
from epd_operator.plan_deletion import plan_deletion
from epd_operator.plan_objects import observed_refs, plan_objects
from epd_operator.plan_workers import Fleet, plan_workers
from epd_operator.ports import Clock, Cluster, ClusterCallError, GoneError, Workers
from epd_operator.split import Split
from epd_operator.wakeups import Outcome
from epd_operator.wanted import Images, Wanted
from epd_operator.worker_pods import WorkerPod

log = logging.getLogger(__name__)

RESYNC_S: Final = 60.0
"""Without any event, look again after so long: a watch may be silent and dead."""

AFTER_WRITE_S: Final = 0.2
"""After a write the world may already call for the next step."""


@dataclass(frozen=True, slots=True)
class World:
    """A cluster and what belongs to it, as one pass found them."""

    wanted: Wanted
    owner: Manifest
    objects: Mapping[Ref, Manifest]
    fleet: Fleet


@dataclass(slots=True)
class Reconciler:
    """Runs passes.

    Attributes:
        cluster: The API server.
        workers: Asks pods for their work in flight.
        clock: The time.
        images: The images of this release.
        may_write: False once another operator leads.
        names_taken: Pod names that others have, found out on the way.
        tell_pods: Told which pods a cluster with this uid has.
        tell_expiries: Told when the certificates of a cluster end; nothing: it is gone.
    """

    cluster: Cluster
    workers: Workers
    clock: Clock
    images: Images
    may_write: Callable[[], bool] = lambda: True
    names_taken: dict[Key, set[str]] = field(default_factory=dict)
    tell_pods: Callable[[Key, str, Sequence[Manifest]], None] = lambda _key, _uid, _pods: None
    tell_expiries: Callable[[Key, Mapping[str, datetime]], None] = lambda _key, _ends: None

    async def run(self, key: Key) -> Outcome:
        """Run one pass."""
        try:
            owner = await self.cluster.get(Ref(Kind.EPD_CLUSTER, key.namespace, key.name))
            if owner is None:
                self.names_taken.pop(key, None)
                self.tell_expiries(key, {})
                return Outcome(look_again_s=0, is_gone=True)
            if owner["metadata"].get("deletionTimestamp") is not None:
                return await self._end(owner)
            try:
                wanted = Wanted.of(validate_cluster(_without_status(owner)), self.images)
            except ClusterError as error:
                return await self._refuse(owner, error)
            return await self._pursue(wanted, owner)
        except ClusterCallError as error:
            # What was done is done; what was not is planned again from what is then found.
            log.warning("%s: %s", key, error)
            return Outcome(look_again_s=0, has_failed=True)

    async def _pursue(self, wanted: Wanted, owner: Manifest) -> Outcome:
        if FINALIZER not in (owner["metadata"].get("finalizers") or ()):
            return await self._hold(owner)
        world = await self._observe(wanted, owner)
        authority, leaf = authority_secret(wanted), leaf_secret(wanted)
        self.tell_expiries(
            wanted.key, expiries(world.objects.get(authority), world.objects.get(leaf))
        )
        steps = Steps()
        now = self.clock.now()
        plan_objects(wanted, world.objects, now, steps)
        split = plan_workers(wanted, world.fleet, now, steps)
        enacted = await enact(
            self.cluster,
            owner,
            steps.actions,
            self.clock.now,
            wanted=wanted,
            may_write=self.may_write,
        )
        self.names_taken.setdefault(wanted.key, set()).update(enacted.names_taken)
        await self._report(world, split, steps, enacted)
        return _outcome(steps, enacted)

    async def _hold(self, owner: Manifest) -> Outcome:
        """Take the right to be asked before the cluster goes."""
        metadata = owner["metadata"]
        body = {"metadata": {"finalizers": [*(metadata.get("finalizers") or ()), FINALIZER]}}
        patch = Patch(Ref.to(owner), metadata["resourceVersion"], body)
        enacted = await enact(
            self.cluster, owner, [patch], self.clock.now, may_write=self.may_write
        )
        return _outcome(Steps(), enacted)

    async def _end(self, owner: Manifest) -> Outcome:
        key = Key(owner["metadata"]["namespace"], owner["metadata"]["name"])
        name = f"{key.name}-{Component.GATEWAY.value}"
        deployment = await self.cluster.get(Ref(Kind.DEPLOYMENT, key.namespace, name))
        gateways = await self.cluster.list(
            Kind.POD,
            key.namespace,
            {CLUSTER_LABEL: key.name, COMPONENT_LABEL: Component.GATEWAY.value},
        )
        steps = Steps()
        plan_deletion(owner, deployment, gateways, self.clock.now(), steps)
        enacted = await enact(
            self.cluster, owner, steps.actions, self.clock.now, may_write=self.may_write
        )
        for refusal in enacted.refusals:
            await tell(self.cluster, owner, refusal, self.clock.now())
        return _outcome(steps, enacted)

    async def _refuse(self, owner: Manifest, error: ClusterError) -> Outcome:
        """Say that the spec cannot be used; the API server refuses most of these itself."""
        message = "; ".join(str(problem) for problem in error.problems)[:1024]
        before = owner.get("status") or {}
        generation = owner["metadata"].get("generation") or 0
        status = conditions.status_of_invalid(message, generation, before, self.clock.now())
        await self._write_status(owner, before, status)
        return Outcome(look_again_s=RESYNC_S)

    async def _observe(self, wanted: Wanted, owner: Manifest) -> World:
        refs = observed_refs(wanted)
        found, pods = await asyncio.gather(
            asyncio.gather(*(self.cluster.get(ref) for ref in refs)),
            self.cluster.list(Kind.POD, wanted.key.namespace, {CLUSTER_LABEL: wanted.key.name}),
        )
        self.tell_pods(wanted.key, wanted.uid, pods)
        objects = {ref: each for ref, each in zip(refs, found, strict=True) if each is not None}
        ours = [
            WorkerPod.of(pod)
            for pod in pods
            if labels_of(pod).get(COMPONENT_LABEL) == Component.WORKER
            and is_controlled_by(pod, wanted.uid)
        ]
        fleet = Fleet(
            pods=ours,
            taken_names=frozenset(
                {pod["metadata"]["name"] for pod in pods} | self.names_taken.get(wanted.key, set())
            ),
            recorded=_recorded_split(owner),
        )
        in_flight = await self._work(wanted, fleet)
        fleet = Fleet(fleet.pods, fleet.taken_names, fleet.recorded, in_flight)
        return World(wanted, owner, objects, fleet)

    async def _work(self, wanted: Wanted, fleet: Fleet) -> dict[str, int | None]:
        """Ask the pods that may have to go how much they do."""
        staying = fleet.staying
        excess = staying if len(staying) > wanted.spec.replicas else []
        asked = [pod for pod in [*fleet.leaving, *excess] if pod.is_ready and pod.address]
        answers = await asyncio.gather(*(self.workers.in_flight(pod.address) for pod in asked))
        return {pod.name: work for pod, work in zip(asked, answers, strict=True)}

    async def _report(self, world: World, split: Split, steps: Steps, enacted: Enacted) -> None:
        wanted, owner = world.wanted, world.owner
        deployment = world.objects.get(
            Ref(Kind.DEPLOYMENT, wanted.key.namespace, gateway_name(wanted))
        )
        found = Found(
            pods=world.fleet.pods,
            gateways=_available(deployment),
            split=split,
            revision=revision_of(wanted),
            troubles=[*steps.troubles, *enacted.refusals],
            is_changing=bool(steps.actions),
        )
        before = owner.get("status") or {}
        status = conditions.status_of(wanted, found, before, self.clock.now())
        await self._write_status(owner, before, status)

    async def _write_status(
        self, owner: Manifest, before: Mapping[str, Any], status: Manifest
    ) -> None:
        if not conditions.differs(before, status) or not self.may_write():
            return
        try:
            await self.cluster.patch(Ref.to(owner), {"status": status}, subresource="status")
        except GoneError:
            return
        for note in conditions.transitions(before, status):
            await tell(self.cluster, owner, note, self.clock.now())


def _outcome(steps: Steps, enacted: Enacted) -> Outcome:
    if enacted.outage is not None:
        log.warning("the pass ended early: %s", enacted.outage)
    look_again_s = RESYNC_S if steps.look_again_s is None else min(steps.look_again_s, RESYNC_S)
    if enacted.writes or enacted.is_outdated:
        look_again_s = min(look_again_s, AFTER_WRITE_S)
    has_failed = enacted.outage is not None or (bool(enacted.refusals) and not enacted.writes)
    return Outcome(look_again_s=look_again_s, has_failed=has_failed)


def _without_status(owner: Manifest) -> Manifest:
    """Leave the status out: a spec is judged by itself."""
    return {name: value for name, value in owner.items() if name != "status"}


def _recorded_split(owner: Manifest) -> Split:
    split: dict[Role, int] = {}
    for entry in (owner.get("status") or {}).get("roles") or ():
        if entry.get("name") in set(RoleName):
            split[RoleName(entry["name"]).role] = int(entry.get("desired") or 0)
    return split


def _available(deployment: Manifest | None) -> int:
    status = (deployment or {}).get("status") or {}
    return int(status.get("availableReplicas") or 0)
