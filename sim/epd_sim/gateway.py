"""Gateways of the simulated world: the production placement over views as stale as real ones.

Each gateway has its own views and its own book of what it placed (`epd_gateway.pod_load`), hears of
loads at intervals and of role changes after a delay, and asks `epd.policy.placement`.
"""

from dataclasses import dataclass, field
from typing import Final

from epd.policy import admission, placement
from epd.policy.pods import Costs, PodView
from epd.vocabulary import Stage
from epd.wire.messages import Load, StageLoad
from epd_gateway.pod_load import LoadBook
from epd_gateway.prefixes import PrefixBook
from epd_sim.calls import Call
from epd_sim.lexicographic import Lexicographic
from epd_sim.pod import Pod
from epd_sim.world import World

_IMAGES_PER_REQUEST: Final = 64


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How much behind the world a gateway is.

    Attributes:
        report_ms: How often a pod tells its load.
        label_ms: How long a role change takes to reach the first gateway.
        label_spread_ms: How much later the last one learns of it.
        costs: The constants of placement.
        prefixes: Prompts go where one was prefilled that begins alike, if that costs no queue.
        classes: Offline requests wait in line for a moment when they harm no online one.
    """

    report_ms: float = 100.0
    label_ms: float = 100.0
    label_spread_ms: float = 100.0
    costs: Costs = field(default_factory=Costs)
    prefixes: bool = True
    classes: bool = False


class _Gateway:
    """One gateway process."""

    def __init__(self) -> None:
        self.views: list[PodView] = []
        self.books: list[LoadBook] = []
        self.prefixes = PrefixBook()
        self.turn = 0


class GatewayPlacer:
    """Places by production code, or by what is put in its place; a `Placer`."""

    def __init__(
        self, settings: GatewaySettings | None = None, ranking: Lexicographic | None = None
    ) -> None:
        self._settings = settings or GatewaySettings()
        self._placement = ranking or placement
        self._gateways: list[_Gateway] = []
        self._by_name: dict[str, Pod] = {}
        self._told: dict[int, tuple[int, ...]] = {}

    def bind(self, world: World) -> None:
        """Learn of the world."""
        self._world = world
        self._gateways = [_Gateway() for _ in range(world.settings.gateways)]
        for pod in world.pods:
            self._learn(pod)
        world.clock.after(self._settings.report_ms / 1e3, self._report)

    def pod_changed(self, pod: Pod) -> None:
        """A pod is new, has another role, or takes no more work."""
        if pod.name not in self._by_name:
            self._learn(pod)
            return
        settings = self._settings
        last = max(1, len(self._gateways) - 1)
        for index, gateway in enumerate(self._gateways):
            delay_ms = settings.label_ms + settings.label_spread_ms * index / last
            change = (gateway, pod, pod.role.stages, pod.offered)
            self._world.clock.after(delay_ms / 1e3, _apply, change)

    def admits(self, call: Call) -> bool:
        """Keep offline requests in line, if they are a class of their own."""
        if call.request.shape.online or not self._settings.classes:
            return True
        views = self._gateways[call.gateway].views
        return admission.admits_offline(views, self._settings.costs)

    def arrived(self, call: Call) -> None:
        """Pick prefill and decode together, and whether prefill encodes as well."""
        gateway = self._gateways[call.gateway]
        gateway.turn += 1
        choice = self._placement.place_generation(
            gateway.views,
            self._settings.costs,
            images=call.images_left,
            turn=gateway.turn,
            avoid=call.avoid,
            prefix_at=gateway.prefixes.shares(call.request.shape.prefix_keys),
        )
        if choice is None:
            raise RuntimeError("no pod is healthy: the world has no fleet left")
        call.prefill = self._by_name[choice.prefill.name]
        call.decode = self._by_name[choice.decode.name]
        call.fused = choice.fused_encode
        call.overflows += len(choice.overflow)

    def encode_pod(self, call: Call, image: int) -> Pod:
        """Pick who encodes an image: equal content, same pod, unless another is quicker."""
        gateway = self._gateways[call.gateway]
        keys = call.request.shape.image_keys
        key = keys[image] if keys else call.request.index * _IMAGES_PER_REQUEST + image
        choice = self._placement.place_encode(
            gateway.views, key, self._settings.costs, turn=gateway.turn, avoid=call.avoid
        )
        if choice is None:
            raise RuntimeError("no pod is healthy: the world has no fleet left")
        call.overflows += choice.overflow
        return self._by_name[choice.pod.name]

    def prefill_pod(self, call: Call, encoded_at: Pod | None) -> Pod:
        """Planned at arrival; asked only after a failure took the plan away."""
        self.arrived(call)
        assert call.prefill is not None  # noqa: S101 - `arrived` sets it or raises
        return call.prefill

    def decode_pod(self, call: Call, prefilled_at: Pod) -> Pod:
        """Return who was planned, unless it has lost its role or its health since.

        As the gateway's pipeline does: then another pod of the role, else where it was prefilled.
        """
        gateway = self._gateways[call.gateway]
        planned = call.decode or prefilled_at
        view = gateway.views[planned.index]
        if view.healthy and Stage.DECODE in view.stages:
            return planned
        choice = self._placement.place_decode(
            gateway.views,
            self._settings.costs,
            turn=gateway.turn,
            avoid=[*call.avoid, prefilled_at.name],
        )
        if choice is not None and not choice.overflow:
            return self._by_name[choice.pod.name]
        prefilling = gateway.views[prefilled_at.index]
        if choice is None or (prefilling.healthy and Stage.DECODE in prefilling.stages):
            return prefilled_at
        call.overflows += 1
        return planned if view.healthy else self._by_name[choice.pod.name]

    def began(self, call: Call, stage: Stage, pod: Pod) -> None:
        """Count it in the gateway's own book."""
        self._gateways[call.gateway].books[pod.index].start(stage)

    def ended(self, call: Call, stage: Stage, pod: Pod) -> None:
        """Count its end, and remember who prefilled what."""
        gateway = self._gateways[call.gateway]
        gateway.books[pod.index].end(stage)
        if stage is Stage.PREFILL and self._settings.prefixes:
            gateway.prefixes.note(call.request.shape.prefix_keys, pod.name)

    def _learn(self, pod: Pod) -> None:
        self._by_name[pod.name] = pod
        for gateway in self._gateways:
            view = PodView(pod.name, pod.role.stages, healthy=pod.offered)
            gateway.views.append(view)
            gateway.books.append(LoadBook(view))

    def _report(self, _: object) -> None:
        """Every pod whose counts have changed tells its load to every gateway."""
        for pod in self._world.pods:
            e, p, d = pod.tallies.values()
            # Written out: this runs for every pod ten times a second.
            counts = (
                *(e.started, e.finished, e.running),
                *(p.started, p.finished, p.running),
                *(d.started, d.finished, d.running),
            )
            if pod.alive and self._told.get(pod.index) != counts:
                self._told[pod.index] = counts
                load = _load_of(pod)
                for gateway in self._gateways:
                    gateway.books[pod.index].report(load)
        self._world.clock.after(self._settings.report_ms / 1e3, self._report)


def _apply(change: "tuple[_Gateway, Pod, frozenset[Stage], bool]") -> None:
    gateway, pod, stages, offered = change
    view = gateway.views[pod.index]
    view.stages = stages
    view.healthy = offered


def _load_of(pod: Pod) -> Load:
    encode, prefill, decode = (
        StageLoad(
            waiting=tally.in_flight - tally.running,
            running=tally.running,
            started_total=tally.started,
            finished_total=tally.finished,
            service_us_total=round(tally.service_s * 1e6),
            tokens_total=tally.tokens,
        )
        for tally in (pod.tallies[stage] for stage in Stage)
    )
    used = round(1000 * pod.kv_used / pod.costs.kv_tokens)
    return Load(encode, prefill, decode, kv_used_permille=min(1000, used))
