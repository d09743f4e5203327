"""The clockwork of the simulated engine: engine steps of the language model, encoder runs beside.

`StepLoop` batches as real engines do, iteration by iteration: one step decodes a token of every
running sequence and computes chunks of waiting prompts. A timer exists only while there is work.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from epd.wire.messages import FailureKind
from epd_worker.engine import EngineError
from epd_worker.engine.simulated_curves import CostCurves, at


class KvPool:
    """The tokens that fit into the KV cache; whoever needs some reserves them beforehand."""

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.used_tokens = 0
        self.when_freed: Callable[[], None] = lambda: None

    def can_reserve(self, tokens: int) -> bool:
        """Tell whether so many tokens are free."""
        return self.used_tokens + tokens <= self.capacity_tokens

    def reserve(self, tokens: int) -> None:
        """Take tokens that are known to be free, or to become free in this very step."""
        self.used_tokens += tokens

    def free(self, tokens: int) -> None:
        """Give tokens back and wake whoever waits for room."""
        self.used_tokens -= tokens
        self.when_freed()


@dataclass(slots=True, eq=False)
class Job:
    """One sequence on its way through the step loop."""

    prefill_tokens: int
    """Tokens to compute before the first step; 0 where the KV cache came from elsewhere."""
    context_tokens: int
    """Tokens in the KV cache once prefilled."""
    reserved_tokens: int
    """Tokens of the KV pool from admission to end: the context and all that may follow."""
    advance: Callable[[], bool]
    """Emits one token; tells whether it was the last."""
    first_only: bool
    """Ends after the first token (a prefill for a decode elsewhere)."""
    done: asyncio.Future[bool]
    """Becomes what the last `advance` said."""
    prefilled_tokens: int = 0
    entered_step: int = 0
    state: str = "waiting"  # waiting, prefilling, decoding, gone


class StepLoop:
    """Runs jobs in engine steps; everything a step emits is emitted in one turn of the loop."""

    def __init__(self, curves: CostCurves, pool: KvPool) -> None:
        self._curves = curves
        self._pool = pool
        pool.when_freed = self._wake
        self._loop = asyncio.get_running_loop()
        self._order = count()
        self._waiting: list[tuple[int, bool, int, Job]] = []
        self._prefilling: list[Job] = []
        self._decoding: list[Job] = []
        self._chunks: list[tuple[Job, int]] = []
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0
        self._steps = 0
        self._decoding_tokens = 0
        self._closed = False

    def waiting(self) -> list[Job]:
        """Return the jobs that no step has taken up yet."""
        return [job for *_, job in self._waiting if job.state == "waiting"]

    @property
    def running_tokens(self) -> int:
        """Tokens, prompt and output, of all jobs that steps work on."""
        return self._decoding_tokens + sum(job.context_tokens for job in self._prefilling)

    async def run(self, job: Job, priority: int) -> bool:
        """Run a job to its end; cancelling frees it at once. Returns its last `advance`."""
        with_prefill = job.prefill_tokens > 0
        heappush(self._waiting, (priority, with_prefill, next(self._order), job))
        self._wake()
        try:
            return await job.done
        finally:
            self._remove(job)

    def close(self) -> None:
        """Stop stepping; every job fails as shutting down."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for job in [*self.waiting(), *self._prefilling, *self._decoding]:
            if not job.done.done():
                job.done.set_exception(
                    EngineError(FailureKind.SHUTTING_DOWN, "the engine is shutting down")
                )

    def _wake(self) -> None:
        if self._timer is None and self._waiting and not self._closed:
            self._timer = self._loop.call_soon(self._begin_after_rest)

    def _begin_after_rest(self) -> None:
        self._due_s = self._loop.time()
        self._begin_step()

    def _begin_step(self) -> None:
        self._admit()
        if not self._prefilling and not self._decoding:
            self._timer = None
            return
        duration_s = self._curves.step_s(
            self._plan_chunks(), len(self._decoding), self._decoding_tokens
        )
        # Our own time between two steps belongs to the step, unless it is more than the step.
        start_s = max(self._due_s, self._loop.time() - duration_s)
        self._due_s = start_s + duration_s
        self._timer = self._loop.call_at(self._due_s, self._end_step)

    def _admit(self) -> None:
        room = self._curves.capacity.max_running - len(self._prefilling) - len(self._decoding)
        while self._waiting and room > 0:
            job = self._waiting[0][-1]
            if job.state == "waiting":
                if not self._pool.can_reserve(job.reserved_tokens):
                    return
                self._pool.reserve(job.reserved_tokens)
                room -= 1
                if job.prefill_tokens:
                    job.state = "prefilling"
                    self._prefilling.append(job)
                else:
                    self._start_decoding(job)
            heappop(self._waiting)

    def _start_decoding(self, job: Job) -> None:
        job.state = "decoding"
        job.entered_step = self._steps
        self._decoding_tokens += job.context_tokens
        self._decoding.append(job)

    def _plan_chunks(self) -> float:
        """Choose the prompt chunks of the next step; return what they cost in milliseconds."""
        self._chunks = []
        budget = self._curves.capacity.max_batch_tokens - len(self._decoding)
        cost_ms = at(self._curves.prefill_ms, 0) if self._prefilling else 0.0
        for job in self._prefilling:
            if budget <= 0:
                break
            chunk = min(budget, job.prefill_tokens - job.prefilled_tokens)
            budget -= chunk
            cost_ms += self._curves.chunk_ms(job.prefilled_tokens, chunk)
            self._chunks.append((job, chunk))
        return cost_ms

    def _end_step(self) -> None:
        self._steps += 1
        decoding = self._decoding
        self._decoding_tokens += len(decoding)
        ended = [job for job in decoding if job.advance()]
        for job in ended:
            self._finish(job, answer_ended=True)
        for job, chunk in self._chunks:
            job.prefilled_tokens += chunk
            if job.state == "prefilling" and job.prefilled_tokens >= job.prefill_tokens:
                self._prefilled(job)
        self._begin_step()

    def _prefilled(self, job: Job) -> None:
        self._prefilling.remove(job)
        answer_ended = job.advance()
        self._start_decoding(job)
        if answer_ended or job.first_only:
            self._finish(job, answer_ended)

    def _finish(self, job: Job, answer_ended: bool) -> None:
        self._remove(job)
        if not job.done.done():
            job.done.set_result(answer_ended)

    def _remove(self, job: Job) -> None:
        """Take a job out, wherever it is, and free what it holds."""
        state, job.state = job.state, "gone"
        if state == "decoding":
            self._decoding.remove(job)
            self._decoding_tokens -= job.context_tokens + self._steps - job.entered_step
        elif state == "prefilling":
            self._prefilling.remove(job)
        if state in ("decoding", "prefilling"):
            self._pool.free(job.reserved_tokens)


@dataclass(slots=True, eq=False)
class _Picture:
    tokens: int
    done: asyncio.Future[None]


class Encoder:
    """The vision tower: runs over the images that wait, beside the language model."""

    def __init__(self, curves: CostCurves) -> None:
        self._curves = curves
        self._order = count()
        self._waiting: list[tuple[int, int, _Picture]] = []
        self._running: list[_Picture] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many images no run has taken up yet."""
        return len(self._waiting)

    async def run(self, image_tokens: int, priority: int) -> None:
        """Return when an image of so many tokens has been through the encoder."""
        loop = asyncio.get_running_loop()
        picture = _Picture(image_tokens, loop.create_future())
        entry = (priority, next(self._order), picture)
        heappush(self._waiting, entry)
        if self._timer is None:
            self._timer = loop.call_later(0, self._begin)
        try:
            await picture.done
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._waiting.sort()
            raise

    def close(self) -> None:
        """Stop; whoever waits fails as shutting down."""
        if self._timer is not None:
            self._timer.cancel()
        for picture in [*self._running, *(entry[-1] for entry in self._waiting)]:
            if not picture.done.done():
                picture.done.set_exception(
                    EngineError(FailureKind.SHUTTING_DOWN, "the engine is shutting down")
                )

    def _begin(self) -> None:
        self._timer = None
        most = self._curves.encode.max_batch_images
        self._running = [heappop(self._waiting)[-1] for _ in range(min(most, len(self._waiting)))]
        if self._running:
            duration_s = self._curves.encode_s(picture.tokens for picture in self._running)
            self._timer = asyncio.get_running_loop().call_later(duration_s, self._end)

    def _end(self) -> None:
        for picture in self._running:
            if not picture.done.done():
                picture.done.set_result(None)
        self._begin()
