"""The simulated cluster: pods, the requests that pass through them, handoffs, leases, failures.

Who places the stages is a `Placer`; the world only does what it says, with the delays of a real
cluster. Pods hold what they hand off until the taker has it, so that a slow taker slows the giver.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from epd.vocabulary import Role, Stage
from epd_sim.batching import TWO_ENGINES, Batching
from epd_sim.calls import Call, Piece
from epd_sim.clock import Clock
from epd_sim.costs import StageCosts
from epd_sim.pod import Pod
from epd_sim.results import Results, gap_p90_ms
from epd_sim.workload import Request, Workload

ENCODE: Final = Stage.ENCODE
PREFILL: Final = Stage.PREFILL
DECODE: Final = Stage.DECODE
_LINE_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What does not change while a world runs.

    Attributes:
        hop_ms: From a gateway to a pod, and back, once each stage.
        lease_s: How long a pod keeps a handoff for its taker.
        gateways: Gateway processes; requests go to them in turn.
    """

    hop_ms: float = 1.0
    lease_s: float = 30.0
    gateways: int = 1


class Placer(Protocol):
    """Decides which pod takes which stage, as a gateway does, and is told what became of it."""

    def bind(self, world: "World") -> None:
        """Learn of the world, once, before the first request."""
        ...

    def admits(self, call: Call) -> bool:
        """Say whether a call may begin now; asked again and again until it may."""
        ...

    def arrived(self, call: Call) -> None:
        """Plan a call, or plan it anew: may set `prefill`, `decode` and `fused`."""
        ...

    def encode_pod(self, call: Call, image: int) -> Pod:
        """Return who encodes an image of a call that is not fused."""
        ...

    def prefill_pod(self, call: Call, encoded_at: Pod | None) -> Pod:
        """Return who prefills; asked when the images are encoded, if nobody was planned.

        Args:
            call: Which call.
            encoded_at: Who encoded its last image.
        """
        ...

    def decode_pod(self, call: Call, prefilled_at: Pod) -> Pod:
        """Return who decodes; asked when the first token is out.

        Not asked where decode was planned on the very pod that prefilled: that is one call.
        """
        ...

    def pod_changed(self, pod: Pod) -> None:
        """A pod is new, has another role, has died, or takes no more work."""
        ...

    def began(self, call: Call, stage: Stage, pod: Pod) -> None:
        """A stage of a call was sent to a pod."""
        ...

    def ended(self, call: Call, stage: Stage, pod: Pod) -> None:
        """It is done there, or has failed."""
        ...


class Controls(Protocol):
    """Changes the split while the world runs."""

    def bind(self, world: "World") -> None:
        """Learn of the world, once, and schedule what is to be done."""
        ...


class World:
    """A cluster that serves a workload.

    Attributes:
        clock: Its time.
        pods: All pods that ever were, by index.
        calls: All calls so far, in order of arrival.
        open_calls: Calls that have not ended.
        ended: Calls that have ended, in that order.
        flips: Role changes so far: when, index of the pod, its new role.
        settings: What does not change.
        costs: What stages cost.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        costs: StageCosts,
        placer: Placer,
        *,
        controller: "Controls | None" = None,
        batching: Batching | Callable[[Role], Batching] = TWO_ENGINES,
        settings: WorldSettings | None = None,
    ) -> None:
        self.clock = Clock()
        self.costs = costs
        self.settings = settings or WorldSettings()
        self.pods: list[Pod] = []
        self.calls: list[Call] = []
        self.open_calls = 0
        self.ended: list[Call] = []
        self.flips: list[tuple[float, int, Role]] = []
        self._batching = batching
        self._placer = placer
        self._workload: Workload = ()
        self._stopped = False
        self._hop_s = self.settings.hop_ms / 1e3
        for role in roles:
            self._new_pod(role)
        placer.bind(self)
        if controller is not None:
            controller.bind(self)

    def _new_pod(self, role: Role) -> Pod:
        batching = self._batching(role) if callable(self._batching) else self._batching
        pod = Pod(len(self.pods), role, self.clock, self.costs, batching, self)
        self.pods.append(pod)
        return pod

    def add_pod(self, role: Role) -> Pod:
        """Add a pod that is ready now."""
        pod = self._new_pod(role)
        self._placer.pod_changed(pod)
        return pod

    def flip(self, pod: Pod, role: Role) -> None:
        """Change a pod's role label. What it works on goes on."""
        if role is not pod.role:
            pod.role = role
            self.flips.append((self.clock.now_s, pod.index, role))
            self._placer.pod_changed(pod)

    def drain(self, pod: Pod) -> None:
        """Offer a pod no more work; it ends what it has. For deletion, never for a flip."""
        pod.offered = False
        self._placer.pod_changed(pod)

    @property
    def is_over(self) -> bool:
        """Whether every request has come and ended, or nobody wants to know."""
        return self._stopped or (not self.open_calls and len(self.calls) == len(self._workload))

    def stop(self) -> None:
        """End the run now; requests on their way never end."""
        self._stopped = True

    def run(self, workload: Workload, *, until_s: float = float("inf")) -> Results:
        """Serve a workload to its end, or until `until_s`, and return what came of it."""
        self._workload = workload
        if workload:
            self.clock.at(workload[0].arrival_s, self._arrive, 0)
        self.clock.run(until_s, lambda: self.is_over)
        return Results.of(self.calls, flips=len(self.flips), events=self.clock.events)

    # --- a call, step by step -------------------------------------------------------------------

    def _arrive(self, index: int) -> None:
        request: Request = self._workload[index]
        if index + 1 < len(self._workload):
            self.clock.at(self._workload[index + 1].arrival_s, self._arrive, index + 1)
        call = Call(request, index % self.settings.gateways)
        self.calls.append(call)
        self.open_calls += 1
        self._begin(call)

    def _begin(self, call: Call) -> None:
        """Start a call, or keep it in line until it may begin."""
        if self._placer.admits(call):
            self._start(call)
        else:
            self.clock.after(_LINE_POLL_S, self._begin, call)

    def _start(self, call: Call) -> None:
        """Place a call and send its first stages."""
        self._placer.arrived(call)
        images = call.request.shape.image_tokens
        if not call.images_left:
            self._send_prefill(call)
        else:
            for index, tokens in enumerate(images):
                pod = call.prefill if call.fused else None
                pod = pod or self._placer.encode_pod(call, index)
                self._send(Piece(call, ENCODE, pod, tokens))

    def _send(self, piece: Piece) -> None:
        self._placer.began(piece.call, piece.stage, piece.pod)
        piece.call.pieces.append(piece)
        if self._hop_s:
            self.clock.after(self._hop_s, self._submit, piece)
        else:
            self._submit(piece)

    def _submit(self, piece: Piece) -> None:
        if piece.attempt != piece.call.attempt:
            return
        if piece.pod.alive:
            piece.pod.submit(piece)
        else:
            piece.call.avoid.add(piece.pod.name)
            self._fail(piece.call)

    def encoded(self, pod: Pod, piece: Piece) -> None:
        """An image is encoded: hold its embedding, go on when it was the last."""
        call = piece.call
        if piece.attempt != call.attempt:
            return
        self._done(piece)
        call.images_left -= 1
        if not call.fused:
            pod.give(ec_tokens=piece.tokens)
            call.embeddings.append((pod, piece.tokens))
        if not call.images_left:
            self._send_prefill(call)

    def _send_prefill(self, call: Call) -> None:
        pod = call.prefill
        if pod is None:
            encoded_at = call.embeddings[-1][0] if call.embeddings else None
            pod = call.prefill = self._placer.prefill_pod(call, encoded_at)
        tokens = call.context_tokens
        piece = Piece(call, PREFILL, pod, tokens, reserved=tokens)
        if call.decode is pod:
            piece.reserved += call.remaining
        for giver, size in call.embeddings:
            if giver is pod:
                giver.release(ec_tokens=size)
                piece.continues = True
            else:
                piece.sources.append((giver, size))
        call.embeddings.clear()
        piece.continues = piece.continues or call.fused
        call.handoffs += len(piece.sources)
        self._send(piece)

    def taken(self, pod: Pod, piece: Piece) -> None:
        """A pod has what was handed off: the givers may forget it."""
        for giver, tokens in piece.sources:
            if piece.stage is PREFILL:
                giver.release(ec_tokens=tokens)
            else:
                giver.release(kv_tokens=tokens)
        piece.sources.clear()

    def prefilled(self, pod: Pod, piece: Piece) -> None:
        """The first token is out: stream it, and go on with decode."""
        call = piece.call
        if piece.attempt != call.attempt:
            pod.kv_used -= piece.reserved
            return
        self._done(piece)
        self._token(call)
        if not call.remaining:
            pod.kv_used -= piece.reserved
            self._finish(call)
            return
        if call.decode is not pod:
            call.decode = self._placer.decode_pod(call, pod)
        decode = Piece(call, DECODE, call.decode, piece.tokens, piece.tokens + call.remaining)
        decode.output = call.remaining
        if call.decode is pod:
            # Room for the answer may have been kept from the start, or is taken now.
            pod.kv_used += decode.reserved - piece.reserved
            self._placer.began(call, DECODE, pod)
            call.pieces.append(decode)
            pod.go_on(decode)
            return
        pod.kv_used += piece.tokens - piece.reserved
        pod.give()
        decode.sources.append((pod, piece.tokens))
        call.handoffs += 1
        self._send(decode)
        self.clock.after(self.settings.lease_s, self._lease_ends, decode)

    def _token(self, call: Call) -> None:
        now_s = self.clock.now_s
        if call.first_token_s is None:
            call.first_token_s = now_s
        else:
            call.gaps_s.append(np.array([now_s - call.last_token_s]))
        call.last_token_s = now_s
        call.emitted += 1

    def decoded(self, pod: Pod, piece: Piece, token_times_s: "array[float]") -> None:
        """The last token is out."""
        call = piece.call
        self._done(piece)
        self._note_tokens(call, token_times_s)
        self._finish(call)

    def _note_tokens(self, call: Call, times_s: "array[float]") -> None:
        """Take tokens that came from a decode batch; their gaps begin at the token before."""
        if times_s:
            times = np.array(times_s)
            call.gaps_s.append(np.diff(times, prepend=call.last_token_s))
            call.emitted += len(times_s)
            call.last_token_s = times_s[-1]

    def _finish(self, call: Call) -> None:
        self.open_calls -= 1
        self.ended.append(call)
        if call.gaps_s and call.first_token_s is not None:
            gaps_s = call.gaps_s[0] if len(call.gaps_s) == 1 else np.concatenate(call.gaps_s)
            call.tpot_mean_ms = float(gaps_s.mean()) * 1e3
            call.tpot_p90_ms = gap_p90_ms(gaps_s)
            call.gaps_s = []

    def _done(self, piece: Piece) -> None:
        piece.call.pieces.remove(piece)
        self._placer.ended(piece.call, piece.stage, piece.pod)

    # --- what goes wrong ------------------------------------------------------------------------

    def _lease_ends(self, piece: Piece) -> None:
        """A KV cache that nobody took in time is gone: the taker computes it itself."""
        if not piece.sources or piece.attempt != piece.call.attempt:
            return
        self._fail(piece.call)

    def fail_pod(self, pod: Pod) -> None:
        """A pod dies: all calls that were on it, or wait for something it holds, start anew."""
        lost = pod.stop()
        self._placer.pod_changed(pod)
        calls = {id(piece.call): piece.call for piece in lost}
        for call in self.calls:
            if call.remaining and id(call) not in calls and _rests_on(call, pod):
                calls[id(call)] = call
        for piece in lost:
            if piece.stage is DECODE:
                self._note_tokens(piece.call, pod.token_times_s(piece))
        for call in calls.values():
            self._fail(call)

    def _fail(self, call: Call) -> None:
        """Give up what a call has under way, and place it anew with the tokens it has."""
        for piece in call.pieces:
            self._placer.ended(call, piece.stage, piece.pod)
            if piece.pod.alive:
                piece.pod.withdraw(piece)
            self.taken(piece.pod, piece)
        for giver, tokens in call.embeddings:
            giver.release(ec_tokens=tokens)
        call.pieces.clear()
        call.embeddings.clear()
        call.attempt += 1
        call.retries += 1
        call.prefill = call.decode = None
        call.fused = False
        call.images_left = len(call.request.shape.image_tokens)
        self._start(call)


def _rests_on(call: Call, pod: Pod) -> bool:
    if any(giver is pod for giver, _ in call.embeddings):
        return True
    return any(giver is pod for piece in call.pieces for giver, _ in piece.sources)
