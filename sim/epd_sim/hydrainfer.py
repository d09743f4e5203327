"""HydraInfer as published: its costs on an H800, its batching, its round robin.

Facts are from its paper (arXiv 2505.12658), notebooks and code. What is inferred is
marked so. `COMPUTE_FACTOR` is the one constant that was fitted (`epd_sim.calibration`).
"""

from typing import Final

from epd.vocabulary import Role, Stage
from epd_sim.batching import Batching, Encoder
from epd_sim.calls import Call
from epd_sim.costs import StageCosts
from epd_sim.pod import Pod
from epd_sim.world import World

COMPUTE_FACTOR: Final = 1.535
"""How much longer everything computes in serving than in the profile: the fitted constant.

The profile leaves out eager launches, sampling and scheduling.
"""

RUNNING_LIMIT: Final = 22
"""Requests that a node holds at once, those given and not yet taken included. Inferred.

The released default is 15, its start-up formula gives about 40 for this memory; the study's
own setting is not published. It moves 6:2 and 7:1 only, where decode pushes back.
"""

IMAGE_HOST_MS: Final = 50.0
"""Host time of an image before it can be encoded: tens of milliseconds for a large one (COSTS)."""

ED_IMAGE_HOST_MS: Final = 114.0
"""The same on a node that also decodes. Inferred from ED:P 1:7 alone.

Cutting up an image and launching eager decode steps share one Python interpreter; a node that
prefills leaves it idle while the GPU computes.
"""

TILE_TOKENS: Final = 576
"""Tokens of one 336 x 336 tile; LLaVA-NeXT cuts an image into up to five."""

H800_VICUNA_7B: Final = StageCosts(
    name="LLaVA-NeXT 7B on H800, HydraInfer's profile",
    # Encode: 3.4 + 0.94 ms a tile from three tiles on, floor 5.5 ms (fit to its profile).
    encode_batch_ms=3.4,
    encode_floor_ms=5.5,
    encode_image_ms=((0, 0.0), (TILE_TOKENS, 0.94)),
    # Prefill: 1.4 ms + 23.8 us a token (fit); attention 5 ms at 2,339 tokens.
    prefill_ms=((0, 1.4), (1024, 1.4 + 0.0238 * 1024)),
    prefill_quadratic_ms=5.0 / 2339**2,
    # Decode, the dense part, and 0.22 us for each token of KV cache read.
    decode_ms=((1, 7.3), (64, 8.1), (128, 9.1), (256, 11.0), (512, 16.0), (1024, 27.5)),
    decode_token_ms=0.00022,
    kv_bytes_per_token=524_288,
    ec_bytes_per_token=8_192,
    # 7.3 ms for LLaVA-1.5's KV cache of about 630 tokens; 1.5 ms for its embedding.
    kv_handoff_ms=0.0,
    ec_handoff_ms=0.0,
    handoff_bytes_per_s=630 * 524_288 / 7.3e-3,
    # (85 GB - 14.7 GB weights) less 20 % for activations, 80 % of it.
    kv_tokens=86_000,
    ec_tokens=600_000,
)


def batching_of(role: Role, tpot_slo_ms: float = 80.0, *, images_wait: bool = False) -> Batching:
    """Return how a node of this role fills its steps.

    Args:
        role: Its stages. A node that decodes keeps every step under the TPOT SLO.
        tpot_slo_ms: The SLO its start-up profiler was given.
        images_wait: The paper's rule instead of the released code's.
    """
    decodes = Stage.DECODE in role.stages
    limit_ms = (tpot_slo_ms if decodes else 1000.0) - 10.0
    return Batching(
        "HydraInfer, paper" if images_wait else "HydraInfer, released",
        token_budget=min(2048, int((limit_ms / COMPUTE_FACTOR - 1.4) / 0.0238)),
        image_budget=8,
        max_running=RUNNING_LIMIT,
        encoder=Encoder.JOINED,
        images_wait=images_wait,
        handoff_in_step=True,
        stretch=0.0,
        image_host_ms=ED_IMAGE_HOST_MS if role is Role.ENCODE_DECODE else IMAGE_HOST_MS,
        given_count=True,
        overload=RUNNING_LIMIT if role in (Role.ENCODE_DECODE, Role.PREFILL) else 0,
    )


class RoundRobin:
    """HydraInfer's balancing: whoever hands on has a counter of its own over the takers.

    All counters begin at 0, so that givers who are served in turn send to the same taker at the
    same time: bursts that a single counter would not make.
    """

    def __init__(self) -> None:
        self._pods: list[Pod] = []
        self._counters: dict[str, int] = {}

    def bind(self, world: World) -> None:
        """Learn of the world."""
        self._pods = world.pods

    def admits(self, call: Call) -> bool:
        """Everything begins as it comes."""
        return True

    def arrived(self, call: Call) -> None:
        """Plan nothing: every stage is placed when it is due."""

    def encode_pod(self, call: Call, image: int) -> Pod:
        """Return the next node that encodes."""
        return self._next("entry", Stage.ENCODE)

    def prefill_pod(self, call: Call, encoded_at: Pod | None) -> Pod:
        """Return the next prefill node of the one that encoded, which may be itself."""
        giver = encoded_at.name if encoded_at else "entry"
        return self._next(f"{giver} to prefill", Stage.PREFILL)

    def decode_pod(self, call: Call, prefilled_at: Pod) -> Pod:
        """Return the next decode node of the one that prefilled, which may be itself."""
        return self._next(f"{prefilled_at.name} to decode", Stage.DECODE)

    def pod_changed(self, pod: Pod) -> None:
        """Nodes and their roles are fixed."""

    def began(self, call: Call, stage: Stage, pod: Pod) -> None:
        """Loads are not looked at."""

    def ended(self, call: Call, stage: Stage, pod: Pod) -> None:
        """Loads are not looked at."""

    def _next(self, counter: str, stage: Stage) -> Pod:
        pool = [pod for pod in self._pods if pod.offered and stage in pod.role.stages]
        turn = self._counters.get(counter, 0)
        self._counters[counter] = turn + 1
        return pool[turn % len(pool)]


def split(first: Role, second: Role, count: int, of: int = 8) -> list[Role]:
    """Return the roles of a fleet: `count` of the first, the rest of the second."""
    return [first] * count + [second] * (of - count)
