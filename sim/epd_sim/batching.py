"""How an engine fills its steps: the switches, and the named settings of real engines."""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


@unique
class Encoder(StrEnum):
    """Where the vision encoder runs."""

    BESIDE = "beside"  # an engine of its own in the same pod (ADR 2): two loops, one GPU
    JOINED = "joined"  # a second stream of the same step, which ends when both end (HydraInfer)
    IN_STEP = "in-step"  # before the language model in the same step (vLLM 0.32, one engine)


@dataclass(frozen=True, slots=True)
class Batching:
    """How an engine fills its steps.

    Attributes:
        name: For reports.
        token_budget: Tokens of one step of the language model.
        image_budget: Images of one run of the encoder.
        max_running: Pieces of work that an engine holds at once.
        chunked: A prompt that does not fit the rest of the budget is split.
        encoder: Where the vision encoder runs.
        images_wait: Images are encoded only while no prefill is pending (HydraInfer's paper); else
            at every step (its released code).
        handoff_in_step: A step waits for the handoffs that it takes (HydraInfer's code waits for
            its copies at each step's end); else they run in the background.
        stretch: How much a step of two streams exceeds the longer of the two, as a share of the
            shorter one: 0 is perfect overlap, 1 none.
        image_host_ms: Time of the host, one image after the other, before an image can be encoded
            (decoding and cutting it up); it delays images, not steps.
        given_count: What is handed off and not yet taken counts against `max_running`, which is
            how back-pressure reaches the giving side.
        overload: What takes a handoff may exceed `max_running` by so much: where two pools take
            from each other, they could wait for each other for ever.
    """

    name: str
    token_budget: int = 2048
    image_budget: int = 8
    max_running: int = 256
    chunked: bool = True
    encoder: Encoder = Encoder.BESIDE
    images_wait: bool = False
    handoff_in_step: bool = False
    stretch: float = 0.5
    image_host_ms: float = 0.0
    given_count: bool = False
    overload: int = 0


TWO_ENGINES: Final = Batching("two engines", token_budget=8192)
"""Our worker: a vision engine beside a language engine that batches as vLLM 0.32 does."""

VLLM_0_32: Final = Batching("vLLM 0.32", token_budget=8192, encoder=Encoder.IN_STEP)
"""One engine: decodes first, then chunked prefill; the encoder runs before the language model."""
