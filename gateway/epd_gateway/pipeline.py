"""One request from its images to its last byte, whatever fails on the way.

    images -> encode (each in parallel) -> prefill -> decode        on up to three pods
                       fused with prefill where that is cheaper
                                           whole: prefill and decode on one pod

Before the answer has begun, a failed stage is tried again elsewhere. Afterwards the answer is
continued on another pod from the tokens that the client has had. Whatever happens, in the end
every handle that nobody took is released and every call that still runs is cancelled.
"""

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Final

from epd.vocabulary import Stage
from epd.wire.messages import Completed, Phase, Prefilled
from epd_gateway.calls import CallFailed, Reason
from epd_gateway.context import DistinctImage, RequestContext
from epd_gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    NoReadyPod,
    Overloaded,
    UpstreamFailed,
    refusal_of_worker,
)
from epd_gateway.media import MediaResolver
from epd_gateway.metrics import GatewayMetrics
from epd_gateway.prefixes import prompt_keys
from epd_gateway.roster import Roster
from epd_gateway.settings import Settings
from epd_gateway.stages import StageRun, Stages, wire_images
from epd_gateway.workers import Worker

logger = logging.getLogger(__name__)

_LOST_HANDOFF: Final = frozenset({Reason.HANDOFF_LOST, Reason.INCOMPATIBLE})
# Embeddings can be lost between two looks at them; after so many rounds the request gives up.
_MAX_ENCODE_ROUNDS: Final = 3
_LINE_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the generation of a request goes.

    Attributes:
        prefill: Prefills.
        decode: Decodes; the same worker for both means one call and no handoff.
        fused: The prefill worker encodes the images itself.
        overflow: The stages whose pod has another role.
    """

    prefill: Worker
    decode: Worker
    fused: bool
    overflow: tuple[Stage, ...]


class Pipeline:
    """Serves requests. One for the whole gateway."""

    def __init__(
        self,
        roster: Roster,
        media: MediaResolver,
        stages: Stages,
        settings: Settings,
        metrics: GatewayMetrics,
    ) -> None:
        """Bind to the parts that every request needs."""
        self._roster = roster
        self._media = media
        self._stages = stages
        self._deadlines = settings.deadlines
        self._retries = settings.retries
        self._metrics = metrics
        self._line = asyncio.Lock()

    async def serve(self, context: RequestContext) -> None:
        """Answer a request.

        Raises:
            GatewayError: It could not be answered, or a worker refused it.
        """
        self._metrics.accepted[context.kind].inc()
        try:
            if context.envelope.images:
                context.set_images(await self._media.resolve(context.envelope.images))
                self._metrics.images.inc(len(context.images))
            context.prefix_keys = prompt_keys(
                context.envelope.body, (image.key for image in context.images)
            )
            if context.envelope.offline:
                await self._stand_in_line(context)
            while True:
                try:
                    await self._attempt(context)
                    return
                except CallFailed as failure:
                    self._weigh(context, failure)
        finally:
            context.cancel_calls()
            context.release_kv()
            context.release_embeddings()

    async def _stand_in_line(self, context: RequestContext) -> None:
        """Wait until the request harms no online one; its time to the first token begins then."""
        try:
            # Only the first in line looks, and it goes first.
            async with asyncio.timeout(context.limit_s - monotonic()), self._line:
                while not self._roster.admits_offline():  # noqa: ASYNC110 - nobody tells of room
                    await asyncio.sleep(_LINE_POLL_S)
        except TimeoutError:
            message = "no room was left for an offline request in its time"
            raise DeadlineExceeded(message) from None
        context.began_s = monotonic()

    # One attempt.

    async def _attempt(self, context: RequestContext) -> None:
        plan = await self._prepare(context)
        if plan.prefill is plan.decode:
            await self._run_on_one(context, plan)
        else:
            await self._run_split(context, plan)

    async def _prepare(self, context: RequestContext) -> Plan:
        """Plan, and have what must be encoded apart encoded first."""
        for _ in range(_MAX_ENCODE_ROUNDS):
            plan = self._plan(context)
            if plan.fused or not (missing := context.unencoded()):
                return plan
            group = plan.prefill.view.compatibility_hash
            await self._encode(context, missing, group)
        raise UpstreamFailed("embeddings were lost again and again; try again")

    def _plan(self, context: RequestContext) -> Plan:
        """Choose the pods, prefill and decode together."""
        roster, missing = self._roster, len(context.unencoded())
        embedded = [image.embedding for image in context.distinct_images if image.embedding]
        group = "" if missing or not embedded else embedded[0].handle.compatibility_hash
        if not context.envelope.splittable or context.answer.emitted:
            choice = roster.place_whole(context.turn, context.avoid, group)
            if choice is None:
                raise NoReadyPod("no worker is ready to take the request; try again")
            worker = roster.workers[choice.pod.name]
            fused = bool(missing) and Stage.ENCODE in worker.view.stages
            overflow = (Stage.PREFILL, Stage.DECODE) if choice.overflow else ()
            return Plan(worker, worker, fused, overflow)
        pair = roster.place_generation(
            context.turn,
            images=missing if not embedded else 0,
            avoid=context.avoid,
            compatibility_hash=group,
            embeddings_at={embedding.worker.name for embedding in embedded},
            prefix_keys=context.prefix_keys,
        )
        if pair is None:
            raise NoReadyPod("no worker is ready to take the request; try again")
        return Plan(
            roster.workers[pair.prefill.name],
            roster.workers[pair.decode.name],
            pair.fused_encode,
            pair.overflow,
        )

    async def _run_on_one(self, context: RequestContext, plan: Plan, rendered: bytes = b"") -> None:
        """Prefill and decode on one pod; a replay, once there are tokens."""
        phase = Phase.DECODE if context.answer.emitted else Phase.WHOLE
        images = wire_images(context, plan.prefill, fused=plan.fused)
        self._count_fused_overflow(plan)
        overflow = Stage.PREFILL in plan.overflow or Stage.DECODE in plan.overflow
        run = self._stages.generate(
            context, plan.prefill, phase, images, overflow=overflow, rendered=rendered
        )
        self._note(context, (await run.outcome()).result)
        self._roster.prefixes.note(context.prefix_keys, plan.prefill.name)

    async def _run_split(self, context: RequestContext, plan: Plan) -> None:
        """Prefill here, stream its token at once, decode there with the handed-off KV cache."""
        images = wire_images(context, plan.prefill, fused=plan.fused)
        self._count_fused_overflow(plan)
        run = self._stages.generate(
            context,
            plan.prefill,
            Phase.PREFILL,
            images,
            overflow=Stage.PREFILL in plan.overflow,
        )
        # Room is reserved before prefill is spent: whoever is placed meanwhile must see it taken.
        plan.decode.book.start(Stage.DECODE)
        try:
            prefilled = (await run.outcome()).result
        finally:
            plan.decode.book.end(Stage.DECODE)
        self._roster.prefixes.note(context.prefix_keys, plan.prefill.name)
        if not isinstance(prefilled, Prefilled):  # the first token was the last
            self._note(context, prefilled)
            return
        decode, overflow = self._decode_pod(context, plan, prefilled)
        if decode is plan.prefill:
            await self._stay(context, plan, prefilled, overflow=overflow)
            return
        run = self._hand_over(context, plan, prefilled, decode, overflow=overflow)
        completed = (await run.outcome()).result
        context.kv = None
        self._note(context, completed)

    def _decode_pod(
        self, context: RequestContext, plan: Plan, prefilled: Prefilled
    ) -> tuple[Worker, bool]:
        """Return who decodes what was prefilled, and whether another role is its own.

        The pod that was planned, unless it has lost its role or its health since. A pod that
        prefilled is preferred only to a pod of another role: it cannot hand over to itself.
        """
        planned, prefill = plan.decode, plan.prefill
        if Stage.DECODE in planned.view.stages and planned.view.healthy:
            return planned, False
        choice = self._roster.place_decode(
            context.turn, [*context.avoid, prefill.name], prefilled.kv.compatibility_hash
        )
        if choice is not None and not choice.overflow:
            return self._roster.workers[choice.pod.name], False
        if Stage.DECODE in prefill.view.stages and prefill.view.healthy:
            return prefill, False
        if choice is None or planned.view.healthy:
            return planned, True
        return self._roster.workers[choice.pod.name], True

    def _hand_over(
        self,
        context: RequestContext,
        plan: Plan,
        prefilled: Prefilled,
        decode: Worker,
        *,
        overflow: bool,
    ) -> StageRun:
        """Start the decode of what was prefilled."""
        images = () if plan.fused else wire_images(context, decode, fused=False, pixels=False)
        run = self._stages.generate(
            context,
            decode,
            Phase.DECODE,
            images,
            overflow=overflow,
            kv=prefilled.kv,
            rendered=prefilled.rendered,
        )
        context.release_embeddings()
        return run

    async def _stay(
        self, context: RequestContext, plan: Plan, prefilled: Prefilled, *, overflow: bool
    ) -> None:
        """Go on where it was prefilled; that pod's own prefix cache spares it the prompt."""
        context.release_kv()
        stages = (Stage.DECODE,) if overflow else ()
        plan = Plan(plan.prefill, plan.prefill, plan.fused, stages)
        await self._run_on_one(context, plan, prefilled.rendered)

    def _note(self, context: RequestContext, result: object) -> None:
        if isinstance(result, Completed):
            context.record.prompt_tokens = result.prompt_tokens
            context.record.output_tokens = result.output_tokens

    def _count_fused_overflow(self, plan: Plan) -> None:
        if plan.fused and Stage.ENCODE in plan.overflow:
            self._metrics.overflows[Stage.ENCODE].inc()

    # Encode.

    async def _encode(
        self, context: RequestContext, images: list[DistinctImage], group: str
    ) -> None:
        """Encode images side by side, each one retried elsewhere on its own."""
        runs = [(image, self._start_encode(context, image, group)) for image in images]
        for image, first_run in runs:
            run = first_run
            while True:
                try:
                    await run.outcome()
                    break
                except CallFailed as failure:
                    if failure.reason is Reason.REFUSED:
                        raise _as_refusal(failure, context.param_of(image)) from None
                    image.failed_on.append(failure.worker)
                    if len(image.failed_on) > self._retries.max_stage_retries:
                        raise
                    self._metrics.retries[Stage.ENCODE].inc()
                    run = self._start_encode(context, image, group)

    def _start_encode(self, context: RequestContext, image: DistinctImage, group: str) -> StageRun:
        choice = self._roster.place_encode(context.turn, image.key, image.failed_on, group)
        if choice is None:
            raise NoReadyPod("no worker is ready to encode an image; try again")
        worker = self._roster.workers[choice.pod.name]
        return self._stages.encode(context, image, worker, overflow=choice.overflow)

    # After a failure.

    def _weigh(self, context: RequestContext, failure: CallFailed) -> None:
        """Prepare another attempt, or say why there is none.

        Raises:
            GatewayError: It is the client's mistake; or there is no other way, or no time left.
        """
        logger.info(
            "a stage failed",
            extra={
                **context.log_fields(),
                "stage": failure.stage.value,
                "pod": failure.worker,
                "reason": failure.reason.value,
            },
        )
        context.release_kv()
        if failure.reason is Reason.REFUSED:
            raise _as_refusal(failure)
        if failure.stage is Stage.ENCODE:
            raise _as_answer(failure)
        now_s, answer = monotonic(), context.answer
        first_token_limit_s = context.began_s + self._deadlines.first_token_s
        if now_s >= context.limit_s or (
            answer.first_token_s is None and now_s >= first_token_limit_s
        ):
            raise DeadlineExceeded("the request did not finish in time")
        if answer.begun and not context.envelope.splittable:
            raise UpstreamFailed("a worker failed; an answer of this kind cannot be continued")
        if failure.reason in _LOST_HANDOFF and context.images and not context.reencoded:
            context.reencoded = True
            context.release_embeddings()
        else:
            if answer.emitted:
                context.replays += 1
            else:
                context.failures += 1
            # Of a lost handoff, too: nothing tells whether the giver lost it, or this one.
            context.avoid.append(failure.worker)
        self._charge(context, failure)

    def _charge(self, context: RequestContext, failure: CallFailed) -> None:
        """Stay within the number of attempts."""
        if context.failures > self._retries.max_stage_retries:
            raise _as_answer(failure)
        if context.replays > self._retries.max_replays:
            raise _as_answer(failure)
        if context.answer.emitted:
            self._metrics.replays.inc()
            context.answer.restart()
        else:
            self._metrics.retries[failure.stage].inc()


def _as_refusal(failure: CallFailed, param: str | None = None) -> GatewayError:
    """Return a worker's refusal as what the client is told."""
    return refusal_of_worker(failure.status, failure.body, param)


def _as_answer(failure: CallFailed) -> GatewayError:
    """Return what the client is told when the last attempt has failed."""
    what = f"{failure.stage} failed ({failure.reason}), and so did another attempt; try again"
    if failure.reason is Reason.OVERLOADED:
        return Overloaded("no worker has room for the request; try again later")
    if failure.reason is Reason.SHUTTING_DOWN:
        return NoReadyPod(what)
    if failure.reason is Reason.DEADLINE:
        return DeadlineExceeded(what)
    return UpstreamFailed(what)
