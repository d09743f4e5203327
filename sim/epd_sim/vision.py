"""The vision engine beside a pod's language engine: runs over the images that wait."""

from collections import deque
from typing import TYPE_CHECKING

from epd_sim.calls import Piece
from epd_sim.clock import Clock

if TYPE_CHECKING:
    from epd_sim.pod import Pod


class VisionEngine:
    """Encodes images in runs, while the language engine does what it does.

    Attributes:
        prefill_until_s: Until when the language engine computes prompts: both slow down then.
        busy_s: Seconds it ran.
    """

    def __init__(self, pod: "Pod", clock: Clock) -> None:
        self.prefill_until_s = 0.0
        self.busy_s = 0.0
        self._pod = pod
        self._clock = clock
        self._waiting: deque[Piece] = deque()
        self._running: list[Piece] = []
        self._until_s = 0.0
        self._woken = False

    def submit(self, piece: Piece) -> None:
        """Take an image."""
        self._waiting.append(piece)
        self.wake()

    def wake(self) -> None:
        """Begin a run, if there is something to encode and room for the result."""
        if not self._running and not self._woken and self._waiting:
            self._woken = True
            self._clock.at(self._clock.now_s, self._begin)

    def stop(self) -> list[Piece]:
        """Fail; return the images that were here."""
        lost = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        return lost

    def overlap_ms(self, step_ms: float) -> float:
        """Return what a step of prefill loses to the run that is under way."""
        rest_ms = (self._until_s - self._clock.now_s) * 1e3
        if rest_ms <= 0:
            return 0.0
        return self._pod.batching.stretch * min(step_ms, rest_ms)

    def _begin(self, _: object) -> None:
        self._woken = False
        pod, waiting = self._pod, self._waiting
        if not pod.alive or self._running:
            return
        room = pod.costs.ec_tokens - pod.ec_used
        while waiting and len(self._running) < pod.batching.image_budget:
            room -= waiting[0].tokens
            if room < 0 and pod.ec_used + len(self._running):
                break
            self._running.append(waiting.popleft())
        if not self._running:
            return
        now_s = self._clock.now_s
        run_ms = pod.costs.encode_run_ms([piece.tokens for piece in self._running])
        beside_ms = max(0.0, self.prefill_until_s - now_s) * 1e3
        run_ms += pod.batching.stretch * min(run_ms, beside_ms)
        for piece in self._running:
            piece.begun_s = now_s
            pod.tallies[piece.stage].running += 1
        self.busy_s += run_ms / 1e3
        self._until_s = now_s + run_ms / 1e3
        self._clock.at(self._until_s, self._end)

    def _end(self, _: object) -> None:
        done, self._running = self._running, []
        for piece in done:
            self._pod.count_end(piece)
            self._pod.encoded(piece)
        self.wake()
