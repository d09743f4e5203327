"""One request on its way through the world, and the pieces of work that pods do for it."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from epd.vocabulary import Stage
from epd_sim.workload import Request

if TYPE_CHECKING:
    from epd_sim.pod import Pod


class Call:
    """A request on its way.

    Attributes:
        request: What was asked for.
        gateway: Index of the gateway that serves it.
        prefill: The pod that prefills; None until it is placed.
        decode: The pod that decodes; None until it is placed.
        fused: The prefill pod encodes the images itself.
        images_left: Images not encoded yet.
        embeddings: Who holds an embedding of it: (pod, tokens), one for each.
        attempt: Grows when a pod fails under it; pieces of older attempts are void.
        avoid: Names of pods where it found nobody.
        emitted: Tokens the client has.
        first_token_s: When the first came; None before.
        last_token_s: When the latest came.
        pieces: What is under way for it on pods.
        gaps_s: Gaps between its tokens, part by part, until it ends.
        tpot_mean_ms: Mean gap (Arrow's TPOT); 0 for an answer of one token.
        tpot_p90_ms: 90th percentile of the gaps (HydraInfer's TPOT); 0 for one token.
        retries: Times it was placed anew.
        handoffs: EC and KV handoffs it made.
        overflows: Stages that went to a pod of another role.
    """

    __slots__ = (
        "attempt",
        "avoid",
        "decode",
        "embeddings",
        "emitted",
        "first_token_s",
        "fused",
        "gaps_s",
        "gateway",
        "handoffs",
        "images_left",
        "last_token_s",
        "overflows",
        "pieces",
        "prefill",
        "request",
        "retries",
        "tpot_mean_ms",
        "tpot_p90_ms",
    )

    def __init__(self, request: Request, gateway: int = 0) -> None:
        self.request = request
        self.gateway = gateway
        self.prefill: Pod | None = None
        self.decode: Pod | None = None
        self.fused = False
        self.images_left = len(request.shape.image_tokens)
        self.embeddings: list[tuple[Pod, int]] = []
        self.attempt = 0
        self.avoid: set[str] = set()
        self.emitted = 0
        self.first_token_s: float | None = None
        self.last_token_s = 0.0
        self.pieces: list[Piece] = []
        self.gaps_s: list[NDArray[np.float64]] = []
        self.tpot_mean_ms = 0.0
        self.tpot_p90_ms = 0.0
        self.retries = 0
        self.handoffs = 0
        self.overflows = 0

    @property
    def remaining(self) -> int:
        """Tokens still to come."""
        return self.request.shape.output_tokens - self.emitted

    @property
    def context_tokens(self) -> int:
        """Tokens that its KV cache must hold to go on: the prompt and what was emitted."""
        return self.request.shape.prompt_tokens + self.emitted


class Piece:
    """One stage of one call on one pod.

    Attributes:
        call: Whose.
        stage: Which stage.
        attempt: The call's attempt that it belongs to.
        tokens: ENCODE: of the image. PREFILL: to compute. DECODE: of context at the start.
        done: PREFILL: tokens computed. DECODE: unused.
        output: DECODE: tokens to emit here.
        reserved: Tokens of the KV cache it holds while on the pod.
        pod: Where it is, or is on its way to.
        sources: Handoffs to take first: (giving pod, tokens).
        continues: It goes on where an earlier stage of the same call ran.
        enter_step: DECODE: the pod's step count when it joined the batch.
        due_step: DECODE: the step count at which it ends.
        begun_s: When the engine took it up.
    """

    __slots__ = (
        "attempt",
        "begun_s",
        "call",
        "continues",
        "done",
        "due_step",
        "enter_step",
        "output",
        "pod",
        "reserved",
        "sources",
        "stage",
        "tokens",
    )

    def __init__(
        self, call: Call, stage: Stage, pod: "Pod", tokens: int, reserved: int = 0
    ) -> None:
        self.call = call
        self.stage = stage
        self.attempt = call.attempt
        self.tokens = tokens
        self.done = 0
        self.output = 0
        self.reserved = reserved
        self.pod = pod
        self.sources: list[tuple[Pod, int]] = []
        self.continues = False
        self.enter_step = 0
        self.due_step = 0
        self.begun_s = 0.0
