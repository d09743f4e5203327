"""One stage of one request on one worker, from its submission to its outcome."""

import asyncio
import math
from collections.abc import Callable
from enum import StrEnum, unique
from typing import Final, TypeAlias

from epd.vocabulary import Stage
from epd.wire.messages import Failure, FailureKind, Outcome

Take: TypeAlias = Callable[[bytes, bytes], None]
"""Takes one event: the client's bytes and the token ids behind them. Never blocks, never raises."""


@unique
class Reason(StrEnum):
    """Why a call ended without its result; the first six are the worker's own word."""

    REFUSED = "refused"
    HANDOFF_LOST = "handoff_lost"
    INCOMPATIBLE = "incompatible"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"
    SHUTTING_DOWN = "shutting_down"
    DISCONNECTED = "disconnected"
    UNRESPONSIVE = "unresponsive"
    DEADLINE = "deadline"


_REASONS: Final = {kind: Reason[kind.name] for kind in FailureKind}


class CallFailed(Exception):
    """A call ended without its result.

    Attributes:
        reason: Why.
        message: One line, free of prompt text.
        stage: The stage that failed.
        worker: Name of the pod.
        status: HTTP status of the client's answer, where the worker refused the request.
        body: OpenAI error JSON, likewise.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        stage: Stage,
        worker: str,
        *,
        status: int = 0,
        body: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.stage = stage
        self.worker = worker
        self.status = status
        self.body = body


class Call:
    """A call in flight.

    Attributes:
        stream: Its number within the session.
        stage: The stage it is in; a call for the whole generation goes from prefill to decode.
        worker: Name of the pod.
        take: Where its events go. May be replaced at any time.
        on_completed: Called with its successful outcome, within the frame that brought it.
        done: Its outcome or its failure. A cancelled call's never comes.
        started_s: Monotonic time of its submission.
        expires_s: Monotonic time by which something must have been heard of it.
        limit_s: Monotonic time by which it must be done.
    """

    __slots__ = (
        "done",
        "expires_s",
        "limit_s",
        "on_completed",
        "stage",
        "started_s",
        "stream",
        "take",
        "worker",
    )

    def __init__(
        self,
        stream: int,
        stage: Stage,
        worker: str,
        take: Take,
        done: "asyncio.Future[Outcome | CallFailed]",
        *,
        started_s: float,
        expires_s: float,
        limit_s: float = math.inf,
        on_completed: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.stream = stream
        self.stage = stage
        self.worker = worker
        self.take = take
        self.done = done
        self.started_s = started_s
        self.expires_s = expires_s
        self.limit_s = limit_s
        self.on_completed = on_completed

    async def outcome(self) -> Outcome:
        """Wait for the end.

        Raises:
            CallFailed: It ended without its result.
        """
        ending = await self.done
        if isinstance(ending, CallFailed):
            raise ending
        return ending

    def let_go(self) -> None:
        """Forget whom the call serves: it is over, and cycles would keep its request alive."""
        self.take = drop_event
        self.on_completed = None

    def finish(self, outcome: Outcome) -> None:
        """Settle the call with what the worker said."""
        if self.done.done():
            return
        result = outcome.result
        if isinstance(result, Failure):
            self.done.set_result(
                CallFailed(
                    _REASONS[result.kind],
                    result.message,
                    self.stage,
                    self.worker,
                    status=result.status,
                    body=result.body,
                )
            )
            return
        if self.on_completed is not None:
            self.on_completed(outcome)
        self.done.set_result(outcome)

    def fail(self, reason: Reason, message: str) -> None:
        """Settle the call with what this side found."""
        if not self.done.done():
            self.done.set_result(CallFailed(reason, message, self.stage, self.worker))


def drop_event(_payload: bytes, _token_ids: bytes) -> None:
    """Take the events of a call that has none."""
