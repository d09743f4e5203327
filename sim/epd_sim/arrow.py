"""Arrow's two published policies (arXiv 2505.11916), as baselines.

Version 1 names four pools, of which two are in transition; version 2 ranks pods by a pair of costs
and has no names for them. Both route per request and move labels themselves.
"""

from collections.abc import Callable
from typing import Final

from epd.vocabulary import Role
from epd_sim.calls import Call
from epd_sim.label_router import DECODE_ROLE, PREFILL_ROLE, LabelRouter
from epd_sim.pod import Pod
from epd_sim.results import Slo
from epd_sim.world import World

# Narwhal's constants (athrael-soju/Narwhal); the paper's own are not known.
_EXPAND: Final = 1.0
_SHRINK: Final = 0.5
_COOLDOWN_S: Final = 10.0
_SUSTAINED_PASSES: Final = 3
_PASS_S: Final = 1.0

Cost = Callable[[Pod], tuple[float, float]]


class ArrowV2(LabelRouter):
    """Algorithms 1 to 3: lexicographic costs, flips on demand, a monitor for prefill to decode."""

    def __init__(self, slo: Slo) -> None:
        super().__init__(slo)
        self._passes = 0
        self._flipped_s = -_COOLDOWN_S

    def bind(self, world: World) -> None:
        """Learn of the world, and start the monitor."""
        super().bind(world)
        world.clock.after(_PASS_S, self._monitor)

    def choose_prefill(self, call: Call) -> Pod:
        """Algorithm 1 for prefill: least decode residue first, then the shortest queue."""
        own_ms = self.prefill_ms(call)

        def cost(pod: Pod) -> tuple[float, float]:
            book = self.books[pod.index]
            return (book.decode_tokens, book.prefill_ms + own_ms)

        return self._schedule(PREFILL_ROLE, cost, self.slo.ttft_ms)

    def decode_pod(self, call: Call, prefilled_at: Pod) -> Pod:
        """Algorithm 1 for decode: where it was prefilled, if that is labelled decode by now."""
        if prefilled_at.role is DECODE_ROLE and prefilled_at.offered:
            return prefilled_at
        own = call.context_tokens

        def cost(pod: Pod) -> tuple[float, float]:
            book = self.books[pod.index]
            mean = (book.decode_tokens + own) / (book.decodes + 1)
            tokens = book.decode_tokens + own
            return (book.prefill_tokens, tokens - self.max_decode_tokens(mean))

        return self._schedule(DECODE_ROLE, cost, 0.0)

    def _schedule(self, role: Role, cost: Cost, limit: float) -> Pod:
        pods = self.pods(role) or self.pods()
        best = min(pods, key=lambda pod: (*cost(pod), pod.index))
        if cost(best)[1] <= limit:
            return best
        if role is DECODE_ROLE:
            return self._flip(PREFILL_ROLE, DECODE_ROLE) or best
        # Never take from decode while decode is loaded: finished prefills would pile up.
        if self.decode_load() < _SHRINK:
            return self._flip(DECODE_ROLE, PREFILL_ROLE) or best
        return best

    def _flip(self, giver: Role, taker: Role) -> Pod | None:
        """Algorithm 3: the pod with the least work of the old phase; the last one stays."""
        pods = self.pods(giver)
        if len(pods) <= 1:
            return None

        def left(pod: Pod) -> tuple[bool, float, int]:
            book = self.books[pod.index]
            old = book.decode_tokens if giver is DECODE_ROLE else book.prefill_ms
            return (old > 0, old, pod.index)

        pod = min(pods, key=left)
        self.world.flip(pod, taker)
        return pod

    def _monitor(self, _: object) -> None:
        """Algorithm 2: sustained decode load, or idle prefill beside it, turns prefill pods."""
        world = self.world
        if world.is_over:
            return
        prefills = self.pods(PREFILL_ROLE)
        queued_ms = sum(self.books[pod.index].prefill_ms for pod in prefills)
        prefill_load = queued_ms / max(1, len(prefills)) / self.slo.ttft_ms
        decode_load = self.decode_load()
        fires = decode_load >= _EXPAND or prefill_load <= _SHRINK <= decode_load
        self._passes = self._passes + 1 if fires else 0
        now_s = world.clock.now_s
        if self._passes >= _SUSTAINED_PASSES and now_s - self._flipped_s >= _COOLDOWN_S:
            self._passes, self._flipped_s = 0, now_s
            self._flip(PREFILL_ROLE, DECODE_ROLE)
        world.clock.after(_PASS_S, self._monitor)


class ArrowV1(LabelRouter):
    """Four pools: a label, and what is left of the other phase, say which one a pod is in."""

    def choose_prefill(self, call: Call) -> Pod:
        """Ask the prefill pool, then those that still decode, then flip."""
        own_ms = self.prefill_ms(call)
        labelled = self.pods(PREFILL_ROLE)
        clean = [pod for pod in labelled if not self.books[pod.index].decodes]
        turning = [pod for pod in labelled if self.books[pod.index].decodes]
        cheapest = self._shortest(clean or labelled or self.pods())
        for pool in (clean, turning):
            if pool:
                pod = self._shortest(pool)
                if self.books[pod.index].prefill_ms + own_ms <= self.slo.ttft_ms:
                    return pod
        return self._flip_to_prefill() or cheapest

    def decode_pod(self, call: Call, prefilled_at: Pod) -> Pod:
        """Stay where it was prefilled if that decodes; else the fewest tokens, else flip."""
        labelled = self.pods(DECODE_ROLE)
        if prefilled_at in labelled:
            return prefilled_at
        clean = [pod for pod in labelled if not self.books[pod.index].prefills]
        turning = [pod for pod in labelled if self.books[pod.index].prefills]
        for pool in (clean, turning):
            fitting = [pod for pod in pool if self._fits(pod, call.context_tokens)]
            if fitting:
                return min(fitting, key=self._tokens)
        return self._flip_to_decode() or min(labelled or self.pods(), key=self._tokens)

    def _shortest(self, pods: list[Pod]) -> Pod:
        return min(pods, key=lambda pod: (self.books[pod.index].prefill_ms, pod.index))

    def _tokens(self, pod: Pod) -> tuple[int, int]:
        return (self.books[pod.index].decode_tokens, pod.index)

    def _fits(self, pod: Pod, own: int) -> bool:
        book = self.books[pod.index]
        tokens = book.decode_tokens + own
        return tokens <= self.max_decode_tokens(tokens / (book.decodes + 1))

    def _flip_to_prefill(self) -> Pod | None:
        """Take from those that still prefill first; two decode pods always stay."""
        labelled = self.pods(DECODE_ROLE)
        if len(labelled) <= 2:
            return None
        turning = [pod for pod in labelled if self.books[pod.index].prefills]
        pod = min(turning or labelled, key=self._tokens)
        self.world.flip(pod, PREFILL_ROLE)
        return pod

    def _flip_to_decode(self) -> Pod | None:
        labelled = self.pods(PREFILL_ROLE)
        if len(labelled) <= 1:
            return None
        turning = [pod for pod in labelled if self.books[pod.index].decodes]
        pod = self._shortest(turning or labelled)
        self.world.flip(pod, DECODE_ROLE)
        return pod
