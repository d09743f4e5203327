"""What the gateway knows of the pods: who they are, their roles, load and health.

The roster applies the snapshots of its feed and keeps one `Worker` for each pod. A role change is
one assignment, followed by the very next placement; nothing in flight is touched.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Final

from epd.policy import admission, placement
from epd.policy.placement import Choice, PairChoice
from epd.policy.pods import Costs, PodView
from epd.vocabulary import Method, Role, Stage
from epd_gateway.prefixes import PrefixBook
from epd_gateway.roster_feed import RosterEntry, RosterSnapshot, RosterSource
from epd_gateway.session import TrafficTotals
from epd_gateway.settings import Settings, Slo
from epd_gateway.workers import Credentials, Worker, WorkerState, plain

logger = logging.getLogger(__name__)

_SWEEP_S: Final = 0.1
_RETIRED_IDLE_S: Final = 5.0
_KEPT_CHANGES: Final = 16
# What seems to have taken longer was written before this gateway or its connection lived.
_LONGEST_FLIP_S: Final = 60.0
_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class RoleChange:
    """A pod was given another role; `at_s` is Unix time."""

    at_s: float
    pod: str
    before: Role
    after: Role


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be served.

    Attributes:
        ready: Every stage that is needed has a pod of its role.
        missing: The stages that have none. Encode is needed if any worker is multimodal.
    """

    ready: bool
    missing: tuple[Stage, ...]


class Roster:
    """All pods, live.

    Attributes:
        version: Version of the snapshot that is applied; 0 before the first.
        cluster: The cluster's name, as the feed says.
        method: How the cluster is split, as the feed says.
        workers: The pods by name.
        views: What placement reads, in the feed's order.
        models: Served model names.
        changes: The last changes of roles, the latest last.
        prefixes: Who prefilled what, as far as this gateway knows.
        on_flip: Told how many seconds a role took from being written to being placed by.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        model: str = "",
        credentials: Credentials = plain,
    ) -> None:
        """Start with no pods.

        Args:
            settings: Deadlines and intervals.
            model: Served model name; empty: what the feed says, else what the workers say.
            credentials: Gives the TLS of each new connection to a worker.
        """
        self.version = 0
        self.cluster = ""
        self.method: Method | None = None
        self.workers: dict[str, Worker] = {}
        self.views: tuple[PodView, ...] = ()
        self.models: frozenset[str] = frozenset({model} if model else ())
        self.on_flip: Callable[[float], None] = lambda _: None
        self.changes: deque[RoleChange] = deque(maxlen=_KEPT_CHANGES)
        self.prefixes = PrefixBook()
        self._settings = settings
        self._fixed_model = model
        self._feed_model = ""
        self.aim(settings.slo)
        self._credentials = credentials
        self._source: RosterSource | None = None
        self._retired: dict[Worker, float] = {}
        self._past = TrafficTotals()
        self._turn = 0
        self._loop = asyncio.get_running_loop()
        self._closing: set[asyncio.Task[None]] = set()
        self._sweep_timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def aim(self, slo: Slo) -> None:
        """Place by this objective from now on, if it is to be acted on."""
        acts = slo.overflow
        self._costs = Costs(ttft_ms=slo.ttft_ms, tpot_ms=slo.tpot_ms) if acts else Costs()
        self._offline_costs = replace(self._costs, tpot_ms=slo.tpot_ms)

    async def follow(self, source: RosterSource) -> None:
        """Apply what the feed brings, for ever."""
        self._source = source
        async for snapshot in source.snapshots():
            self.apply(snapshot)

    def apply(self, snapshot: RosterSnapshot) -> None:
        """Make the roster what `snapshot` says."""
        wanted = {entry.name: entry for entry in snapshot.workers}
        for name, worker in list(self.workers.items()):
            entry = wanted.get(name)
            if entry is None or entry.address != worker.address:
                self._retire(worker)
        for entry in snapshot.workers:
            known = self.workers.get(entry.name) or self._connect(entry)
            if known.role is not entry.role:
                logger.info("worker %s: role %s -> %s", entry.name, known.role, entry.role)
                self.changes.append(RoleChange(time(), entry.name, known.role, entry.role))
                known.set_role(entry.role)
                self._tell_delay(entry.flipped_s or snapshot.written_s)
            if known.takes_new_work is not entry.takes_new_work:
                offered = "offered" if entry.takes_new_work else "not offered"
                logger.info("worker %s: %s new work", entry.name, offered)
                known.offer_new_work(entry.takes_new_work)
        self.views = tuple(self.workers[entry.name].view for entry in snapshot.workers)
        self.version = snapshot.version
        self.cluster = snapshot.cluster
        self.method = snapshot.method
        self._feed_model = snapshot.model
        self._update_models()

    def _tell_delay(self, written_s: float | None) -> None:
        """Say how long a role took from being written to being placed by."""
        if written_s is not None and 0 <= (delay_s := time() - written_s) <= _LONGEST_FLIP_S:
            self.on_flip(delay_s)

    async def close(self) -> None:
        """Hang up on all workers."""
        self._sweep_timer.cancel()
        workers = [*self.workers.values(), *self._retired]
        await asyncio.gather(*(worker.close() for worker in workers), *self._closing)
        self.workers.clear()
        self._retired.clear()
        self.views = ()

    @property
    def traffic(self) -> TrafficTotals:
        """What has come from all workers so far, those that left included."""
        total = self._past
        for worker in (*self.workers.values(), *self._retired):
            total = total.plus(worker.traffic)
        return total

    @property
    def is_current(self) -> bool:
        """Whether the feed is being followed; without it, the last good roster stays."""
        return self._source is not None and self._source.is_current

    def readiness(self) -> Readiness:
        """Return whether requests can be served now."""
        multimodal = any(
            worker.description is not None and worker.description.multimodal
            for worker in self.workers.values()
        )
        needed = [stage for stage in Stage if multimodal or stage is not Stage.ENCODE]
        offered = {stage for view in self.views if view.healthy for stage in view.stages}
        missing = tuple(stage for stage in needed if stage not in offered)
        return Readiness(not missing, missing)

    @property
    def max_images(self) -> int | None:
        """Images that a request may have, as the workers say; None as long as none has spoken."""
        limits = [
            worker.description.max_images
            for worker in self.workers.values()
            if worker.description is not None and worker.description.ready
        ]
        return min(limits, default=None)

    # Placement: `epd.policy.placement` over the present views.

    def next_turn(self) -> int:
        """Return another number each time; a request breaks all its ties with one of them."""
        self._turn += 1
        return self._turn

    def admits_offline(self) -> bool:
        """Say whether an offline request may begin now."""
        return admission.admits_offline(self.views, self._offline_costs)

    def place_encode(
        self,
        turn: int,
        image_key: int,
        avoid: Collection[str] = _NOBODY,
        compatibility_hash: str = "",
    ) -> Choice | None:
        """Return the pod that should encode an image; None if no pod is healthy."""
        return placement.place_encode(
            self.views,
            image_key,
            self._costs,
            turn=turn,
            avoid=avoid,
            compatibility_hash=compatibility_hash,
        )

    def place_generation(
        self,
        turn: int,
        images: int = 0,
        avoid: Collection[str] = _NOBODY,
        compatibility_hash: str = "",
        embeddings_at: Collection[str] = _NOBODY,
        prefix_keys: Sequence[int] = (),
    ) -> PairChoice | None:
        """Return the pods for prefill and decode; None if no pod is healthy."""
        return placement.place_generation(
            self.views,
            self._costs,
            images=images,
            turn=turn,
            avoid=avoid,
            compatibility_hash=compatibility_hash,
            embeddings_at=embeddings_at,
            prefix_at=self.prefixes.shares(prefix_keys),
        )

    def place_whole(
        self, turn: int, avoid: Collection[str] = _NOBODY, compatibility_hash: str = ""
    ) -> Choice | None:
        """Return the pod for a request that cannot be split; None if no pod is healthy."""
        return placement.place_whole(
            self.views,
            self._costs,
            turn=turn,
            avoid=avoid,
            compatibility_hash=compatibility_hash,
        )

    def place_decode(
        self, turn: int, avoid: Collection[str] = _NOBODY, compatibility_hash: str = ""
    ) -> Choice | None:
        """Return the pod that should decode what is prefilled; None if no pod is healthy."""
        return placement.place_decode(
            self.views,
            self._costs,
            turn=turn,
            avoid=avoid,
            compatibility_hash=compatibility_hash,
        )

    # Inside.

    def _connect(self, entry: RosterEntry) -> Worker:
        worker = Worker(
            entry.name,
            entry.address,
            entry.role,
            self._settings,
            self._credentials,
            self._update_models,
        )
        self.workers[entry.name] = worker
        worker.start()
        return worker

    def _retire(self, worker: Worker) -> None:
        del self.workers[worker.name]
        worker.offer_new_work(False)
        self._retired[worker] = monotonic()

    def _update_models(self) -> None:
        if self._fixed_model or self._feed_model:
            self.models = frozenset({self._fixed_model or self._feed_model})
        else:
            self.models = frozenset(
                worker.description.model
                for worker in self.workers.values()
                if worker.description is not None and worker.description.model
            )

    def _sweep(self) -> None:
        now_s = monotonic()
        for worker in self.workers.values():
            worker.sweep(now_s)
        for worker, since_s in list(self._retired.items()):
            worker.sweep(now_s)
            if worker.in_flight:
                self._retired[worker] = now_s
            elif worker.state is WorkerState.CONNECTING or now_s > since_s + _RETIRED_IDLE_S:
                # Idle for a while: whoever was to take its handoffs has taken them.
                del self._retired[worker]
                self._past = self._past.plus(worker.traffic)
                closing = self._loop.create_task(worker.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        self._sweep_timer = self._loop.call_later(_SWEEP_S, self._sweep)
