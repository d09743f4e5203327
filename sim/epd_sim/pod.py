"""A pod: an engine that takes work of every stage, in steps, as real engines batch it.

While a step's batch cannot change, steps run in one event: they are told apart only when a piece
ends or something new arrives. That is why an hour of decoding costs a few events and not millions;
when each token came out is kept in a log, so that gaps between tokens are exact.
"""

from array import array
from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import Final

from epd.vocabulary import Role, Stage
from epd_sim.batching import Batching, Encoder
from epd_sim.calls import Piece
from epd_sim.clock import Clock
from epd_sim.costs import StageCosts
from epd_sim.prefixes import PrefixCache
from epd_sim.reports import Owner, Tally
from epd_sim.steps import language_ms, plan_chunks, with_images_ms
from epd_sim.token_log import StepRun, TokenLog
from epd_sim.vision import VisionEngine

ENCODE: Final = Stage.ENCODE
PREFILL: Final = Stage.PREFILL
DECODE: Final = Stage.DECODE


class Pod:
    """One simulated pod.

    Attributes:
        index: Its number in the fleet.
        name: Its name.
        role: Its role label, as the cluster has it.
        alive: It has not failed.
        offered: New work may be placed on it; False once it drains or has failed.
        tallies: Counts for each stage.
        prefixes: Its prefix cache.
        kv_used: Tokens reserved in the KV cache, those held for others included.
        ec_used: Tokens of embeddings held for others.
        given: Handoffs offered and not taken yet.
        step_busy_s: Seconds its language model ran.
        prefill_busy_s: Seconds of them that prefill added.
    """

    def __init__(
        self,
        index: int,
        role: Role,
        clock: Clock,
        costs: StageCosts,
        batching: Batching,
        owner: Owner,
    ) -> None:
        self.index = index
        self.name = f"pod-{index}"
        self.role = role
        self.alive = True
        self.offered = True
        self.costs = costs
        self.batching = batching
        self.tallies = {stage: Tally() for stage in Stage}
        self.prefixes = PrefixCache()
        self.kv_used = 0
        self.ec_used = 0
        self.given = 0
        self.step_busy_s = 0.0
        self.prefill_busy_s = 0.0
        self._clock = clock
        self._owner = owner
        self._order = count()
        # What continues here or takes a handoff goes before what is new.
        self._arriving: deque[Piece] = deque()
        self._waiting: deque[Piece] = deque()
        self._active = 0
        self._pulling: list[Piece] = []
        self._link_free_s = 0.0
        self._host_free_s = 0.0
        self._images: deque[Piece] = deque()
        self._prefilling: list[Piece] = []
        self._joining: list[Piece] = []
        self._decoding: list[tuple[int, int, Piece]] = []  # by the step at which each ends
        self._decoding_tokens = 0
        self._log = TokenLog()
        self.vision = VisionEngine(self, clock) if batching.encoder is Encoder.BESIDE else None
        self._run = StepRun()
        self._chunks: list[tuple[Piece, int]] = []
        self._step_images: list[Piece] = []
        self._step_pulls: list[Piece] = []
        self._woken = False

    # --- what others ask of it ------------------------------------------------------------------

    def submit(self, piece: Piece) -> None:
        """Take a piece of work."""
        tally = self.tallies[piece.stage]
        tally.started += 1
        tally.in_flight += 1
        if piece.stage is ENCODE:
            host_s = self.batching.image_host_ms / 1e3
            if host_s:
                self._host_free_s = max(self._host_free_s, self._clock.now_s) + host_s
                self._clock.at(self._host_free_s, self._take_up, piece)
                return
        self._take_up(piece)

    def _take_up(self, piece: Piece) -> None:
        if piece.stage is ENCODE and self.vision is not None:
            self.vision.submit(piece)
            return
        (self._arriving if piece.continues or piece.sources else self._waiting).append(piece)
        self.wake()

    def wake(self) -> None:
        """Look for work again: something has come, or room has been made."""
        if self._run.steps > 1:
            self._cut_short()
        elif not self._run.steps and not self._woken and self.alive:
            self._woken = True
            self._clock.at(self._clock.now_s, self._after_rest)

    def give(self, kv_tokens: int = 0, ec_tokens: int = 0) -> None:
        """Hold something for another pod until it is released."""
        self.given += 1
        self.kv_used += kv_tokens
        self.ec_used += ec_tokens

    def release(self, kv_tokens: int = 0, ec_tokens: int = 0) -> None:
        """Let go of what was held: it is taken, or nobody wants it any more."""
        self.given -= 1
        self.kv_used -= kv_tokens
        self.ec_used -= ec_tokens
        if self._waiting or self._arriving:
            self.wake()
        if ec_tokens and self.vision is not None:
            self.vision.wake()

    def go_on(self, piece: Piece) -> None:
        """Decode here what was prefilled here: it joins the batch with the next step."""
        tally = self.tallies[DECODE]
        tally.started += 1
        tally.in_flight += 1
        tally.running += 1
        self._active += 1
        piece.begun_s = self._clock.now_s
        self._joining.append(piece)

    def encoded(self, piece: Piece) -> None:
        """Pass on that the vision engine has encoded an image."""
        self._owner.encoded(self, piece)

    def withdraw(self, piece: Piece) -> None:
        """Forget a piece that has not begun to decode; nobody wants it any more."""
        if piece in self._arriving or piece in self._waiting:
            (self._arriving if piece in self._arriving else self._waiting).remove(piece)
            self.tallies[piece.stage].in_flight -= 1
            return
        for pieces in (self._pulling, self._step_pulls, self._prefilling, self._joining):
            if piece in pieces:
                pieces.remove(piece)
                self.kv_used -= piece.reserved
                self._active -= 1
                self.tallies[piece.stage].in_flight -= 1
                self.tallies[piece.stage].running -= 1
                self.wake()
                return

    def stop(self) -> list[Piece]:
        """Fail: everything here is lost. Returns the pieces that were."""
        self.alive = self.offered = False
        self._run.version += 1
        pieces = [
            *self._arriving,
            *self._waiting,
            *self._pulling,
            *self._images,
            *self._step_images,
            *self._prefilling,
            *self._joining,
            *(piece for *_, piece in sorted(self._decoding, key=lambda entry: entry[:2])),
        ]
        if self.vision is not None:
            pieces += self.vision.stop()
        return list(dict.fromkeys(pieces))

    def token_times_s(self, piece: Piece) -> "array[float]":
        """Return when each token came that a decoding piece has emitted up to now."""
        if piece.due_step == 0:
            return array("d")
        return self._log.since(piece.enter_step)

    @property
    def decoding(self) -> int:
        """Sequences in the decode batch."""
        return len(self._decoding)

    @property
    def decoding_tokens(self) -> int:
        """Tokens of context in the decode batch, as of the last change."""
        return self._decoding_tokens

    @property
    def waiting_prefill_tokens(self) -> int:
        """Tokens of prompts that are here and not computed yet."""
        queued = sum(piece.tokens for piece in self._waiting if piece.stage is PREFILL)
        queued += sum(piece.tokens for piece in self._arriving if piece.stage is PREFILL)
        return queued + sum(piece.tokens - piece.done for piece in self._prefilling)

    # --- admission ------------------------------------------------------------------------------

    def _admit(self) -> None:
        limit = self.batching.max_running
        if self.batching.given_count:
            limit -= self.given
        self._admit_from(self._arriving, limit + self.batching.overload)
        self._admit_from(self._waiting, limit)

    def _admit_from(self, queue: "deque[Piece]", limit: int) -> None:
        now_s = self._clock.now_s
        while queue and self._active < limit:
            piece = queue[0]
            if self.kv_used and self.kv_used + piece.reserved > self.costs.kv_tokens:
                return
            queue.popleft()
            self._active += 1
            self.kv_used += piece.reserved
            self.tallies[piece.stage].running += 1
            piece.begun_s = now_s
            if not piece.sources:
                self._enter(piece)
                continue
            self._pulling.append(piece)
            if not self.batching.handoff_in_step:
                self._link_free_s = max(self._link_free_s, now_s) + self._handoff_s(piece)
                self._clock.at(self._link_free_s, self._pulled, piece)

    def _handoff_s(self, piece: Piece) -> float:
        costs = self.costs
        one_s = costs.ec_handoff_s if piece.stage is PREFILL else costs.kv_handoff_s
        return sum(one_s(tokens) for _, tokens in piece.sources)

    def _pulled(self, piece: Piece) -> None:
        if self.alive and piece in self._pulling:
            self._pulling.remove(piece)
            self._owner.taken(self, piece)
            self._enter(piece)
            self.wake()

    def _enter(self, piece: Piece) -> None:
        """Let a piece take part from the next step on."""
        if piece.stage is DECODE:
            self._joining.append(piece)
        elif piece.stage is PREFILL:
            if keys := piece.call.request.shape.prefix_keys:
                piece.done = self.prefixes.find(keys, piece.tokens)
            self._prefilling.append(piece)
        else:
            self._images.append(piece)

    # --- steps ----------------------------------------------------------------------------------

    def _after_rest(self, _: object) -> None:
        self._woken = False
        if self.alive and not self._run.steps:
            self._begin()

    def _begin(self) -> None:
        """Begin the next step, or rest."""
        if self._waiting or self._arriving:
            self._admit()
        if self._joining:
            self._join()
        prefill_ms = 0.0
        if self._prefilling:
            self._chunks, prefill_ms = plan_chunks(
                self.batching, self.costs, self._prefilling, len(self._decoding)
            )
        encode_ms = self._plan_images() if self._images else 0.0
        pull_s = self._plan_pulls() if self._pulling and self.batching.handoff_in_step else 0.0
        sequences = len(self._decoding)
        if not sequences and not prefill_ms and not encode_ms and not pull_s:
            return
        step_ms = self._language_ms(prefill_ms, sequences)
        if encode_ms:
            step_ms = with_images_ms(self.batching, step_ms, encode_ms)
        elif prefill_ms and self.vision is not None:
            step_ms += self.vision.overlap_ms(step_ms)
        if prefill_ms and self.vision is not None:
            self.vision.prefill_until_s = self._clock.now_s + step_ms / 1e3
        steps = 1
        if sequences and not (self._chunks or self._step_images or self._step_pulls):
            steps = self._decoding[0][0] - self._log.steps
        self._run.begin(
            self._clock.now_s,
            step_ms + pull_s * 1e3,
            self.costs.decode_token_ms * sequences,
            steps,
        )
        self._clock.at(self._run.end_s(), self._end, self._run.version)

    def _join(self) -> None:
        steps = self._log.steps
        for piece in self._joining:
            piece.enter_step = steps
            piece.due_step = steps + piece.output
            self._decoding_tokens += piece.tokens
            heappush(self._decoding, (piece.due_step, next(self._order), piece))
        self._joining.clear()

    def _plan_images(self) -> float:
        batching = self.batching
        if batching.images_wait and self._prefilling:
            return 0.0
        most = min(batching.image_budget, len(self._images))
        self._step_images = [self._images.popleft() for _ in range(most)]
        return self.costs.encode_run_ms([piece.tokens for piece in self._step_images])

    def _plan_pulls(self) -> float:
        self._step_pulls, self._pulling = self._pulling, []
        return sum(map(self._handoff_s, self._step_pulls))

    def _language_ms(self, prefill_ms: float, sequences: int) -> float:
        both_ms, decode_ms = language_ms(self.costs, prefill_ms, sequences, self._decoding_tokens)
        self.step_busy_s += both_ms / 1e3
        self.prefill_busy_s += (both_ms - decode_ms) / 1e3
        return both_ms

    def _cut_short(self) -> None:
        """End the run with the step that is under way: what has come may change the next."""
        if self._run.cut(self._clock.now_s):
            self._clock.at(self._run.end_s(), self._end, self._run.version)

    def _end(self, version: int) -> None:
        """End the run of steps that is under way, and begin the next."""
        run = self._run
        if version != run.version:
            return
        if self._decoding:
            self._end_decodes()
        run.steps = 0
        if self._chunks:
            self._end_chunks()
        images, self._step_images = self._step_images, []
        for piece in images:
            self._leave(piece)
            self._owner.encoded(self, piece)
        pulls, self._step_pulls = self._step_pulls, []
        for piece in pulls:
            self._owner.taken(self, piece)
            self._enter(piece)
        if self.alive:
            self._begin()

    def _end_decodes(self) -> None:
        run, batch, log = self._run, self._decoding, self._log
        now_s = self._clock.now_s
        if run.steps > 1:
            self.step_busy_s += now_s - run.from_s - run.step_ms / 1e3
        log.note(run, now_s)
        self._decoding_tokens += run.steps * len(batch)
        while batch and batch[0][0] <= log.steps:
            self._finish_decode(heappop(batch)[2])

    def _end_chunks(self) -> None:
        chunks, self._chunks = self._chunks, []
        for piece, tokens in chunks:
            piece.done += tokens
            if piece.done >= piece.tokens and piece in self._prefilling:
                self._prefilling.remove(piece)
                self._leave(piece)
                if keys := piece.call.request.shape.prefix_keys:
                    self.prefixes.keep(keys, self.costs.kv_tokens - self.kv_used)
                self._owner.prefilled(self, piece)

    def _finish_decode(self, piece: Piece) -> None:
        self._decoding_tokens -= piece.tokens + piece.output
        times_s = self._log.since(piece.enter_step)
        self.kv_used -= piece.reserved
        self._leave(piece)
        if self._log.is_long:
            self._log.forget_before(
                min((entry[2].enter_step for entry in self._decoding), default=self._log.steps)
            )
        self._owner.decoded(self, piece, times_s)

    def _leave(self, piece: Piece) -> None:
        """Count a piece that is done; what it holds of the KV cache is its owner's to free."""
        self._active -= 1
        self.count_end(piece)

    def count_end(self, piece: Piece) -> None:
        """Count a piece that is done in its stage's tally."""
        tally = self.tallies[piece.stage]
        tally.finished += 1
        tally.in_flight -= 1
        tally.running -= 1
        tally.service_s += self._clock.now_s - piece.begun_s
        tally.tokens += piece.output if piece.stage is DECODE else piece.tokens
