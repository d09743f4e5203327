"""HydraInfer's published studies in our world: does the simulator tell what was measured?

The ratio study: LLaVA-NeXT, TextCaps, eight GPUs, 7 requests a second and GPU, 560 requests, mean
TTFT in seconds for each split (arXiv 2505.12658, read off a figure). The ablation: goodput per GPU
of the whole, without hybrid methods, and without stage-level batching as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from epd.vocabulary import Role
from epd_sim.batching import Batching, Encoder
from epd_sim.datasets import DATASETS, llava_next
from epd_sim.hydrainfer import (
    COMPUTE_FACTOR,
    H800_VICUNA_7B,
    IMAGE_HOST_MS,
    RUNNING_LIMIT,
    RoundRobin,
    batching_of,
    split,
)
from epd_sim.results import Results, Slo, Tpot
from epd_sim.workload import arrive, poisson_gaps
from epd_sim.world import World, WorldSettings

GPUS: Final = 8
SEEDS: Final = tuple(range(16))
"""One published run is one draw of arrivals; ours is the mean over these."""

ABLATION_SLO: Final = Slo(ttft_ms=8000, tpot_ms=80, tpot=Tpot.P90)
"""Of LLaVA-NeXT on TextCaps (arXiv 2505.12658)."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One split of the study.

    Attributes:
        method: EP:D or ED:P.
        count: Nodes of the first role, out of eight.
        ttft_s: Published mean TTFT.
        gap_s: Published mean gap between tokens; None where no figure was read.
    """

    method: str
    count: int
    ttft_s: float
    gap_s: float | None = None

    @property
    def roles(self) -> list[Role]:
        """The roles of the eight nodes."""
        if self.method == "EP:D":
            return split(Role.ENCODE_PREFILL, Role.DECODE, self.count)
        return split(Role.ENCODE_DECODE, Role.PREFILL, self.count)


PUBLISHED: Final = (
    Ratio("EP:D", 1, 24.4, 0.015),
    Ratio("EP:D", 2, 9.7),
    Ratio("EP:D", 3, 4.3),
    Ratio("EP:D", 4, 2.0),
    Ratio("EP:D", 5, 0.7, 0.04),
    Ratio("EP:D", 6, 0.7, 0.16),
    Ratio("EP:D", 7, 3.4, 0.375),
    Ratio("ED:P", 1, 28.0),
    Ratio("ED:P", 4, 2.9, 0.0285),
    Ratio("ED:P", 7, 22.0),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One split, published and simulated.

    Attributes:
        ratio: What was published.
        ttft_s: Mean TTFT here, the mean over seeds.
        ttft_spread_s: Standard deviation of a single run's.
        gap_s: Mean gap between tokens here.
    """

    ratio: Ratio
    ttft_s: float
    ttft_spread_s: float
    gap_s: float

    @property
    def ttft_error(self) -> float:
        """How far off the mean TTFT is, as a share of the published one."""
        return self.ttft_s / self.ratio.ttft_s - 1


def serve_textcaps(
    roles: Sequence[Role],
    rate_per_gpu: float,
    seed: int,
    batching: Batching | None = None,
    *,
    images_wait: bool = False,
    seconds: int = 10,
) -> Results:
    """Serve LLaVA-NeXT TextCaps as the study did: `seconds` times the rate in requests."""
    rng = np.random.default_rng(seed)
    rate = rate_per_gpu * len(roles)
    workload = arrive(
        poisson_gaps(rate, rng),
        llava_next(DATASETS["TextCaps"]),
        rng,
        count=round(seconds * rate),
    )
    world = World(
        roles,
        H800_VICUNA_7B.slowed(COMPUTE_FACTOR),
        RoundRobin(),
        batching=batching or (lambda role: batching_of(role, images_wait=images_wait)),
        settings=WorldSettings(hop_ms=0.0, lease_s=float("inf")),
    )
    return world.run(workload)


def compared(
    ratio: Ratio, seeds: Sequence[int] = SEEDS, *, images_wait: bool = False
) -> Comparison:
    """Return a published split beside ours.

    Args:
        ratio: Which.
        seeds: One run each.
        images_wait: By the paper's rule for images instead of the released code's.
    """
    runs = [serve_textcaps(ratio.roles, 7.0, seed, images_wait=images_wait) for seed in seeds]
    ttfts_s = [run.mean_ttft_s for run in runs]
    return Comparison(
        ratio,
        float(np.mean(ttfts_s)),
        float(np.std(ttfts_s)),
        float(np.mean([run.mean_gap_s for run in runs])),
    )


UNSTAGED: Final = Batching(
    "no stages: whole prompts up to 4,096 tokens",
    token_budget=4096,
    image_budget=4096,
    max_running=RUNNING_LIMIT,
    chunked=False,
    encoder=Encoder.IN_STEP,
    image_host_ms=IMAGE_HOST_MS,
    given_count=True,
)


def goodput_per_gpu(
    roles: Sequence[Role], seed: int, batching: Batching | None = None, *, seconds: int = 10
) -> float:
    """Return the rate per GPU at which attainment crosses 90 %, between whole rates 1 to 12."""
    below, met = 0.0, 1.0
    for rate in range(1, 13):
        run = serve_textcaps(roles, rate, seed, batching, seconds=seconds)
        share = run.attainment(ABLATION_SLO)
        if share < ABLATION_SLO.attainment:
            return below + (met - ABLATION_SLO.attainment) / (met - share)
        below, met = float(rate), share
    return below


def best_hybrid(seed: int, *, seconds: int = 10) -> tuple[str, float]:
    """Return the split of best goodput among all of EP-D, and its goodput per GPU."""
    tried = {
        f"{count}EP{GPUS - count}D": goodput_per_gpu(
            split(Role.ENCODE_PREFILL, Role.DECODE, count), seed, seconds=seconds
        )
        for count in range(3, GPUS)
    }
    best = max(tried, key=lambda name: tried[name])
    return best, tried[best]


def ablation(seed: int = 0, *, seconds: int = 10) -> dict[str, float]:
    """Return goodput per GPU: full, without hybrid methods, without stage-level batching too."""
    colocated = [Role.ENCODE_PREFILL_DECODE] * GPUS
    return {
        "full": best_hybrid(seed, seconds=seconds)[1],
        "no hybrid": goodput_per_gpu(colocated, seed, seconds=seconds),
        "no stages": goodput_per_gpu(colocated, seed, UNSTAGED, seconds=seconds),
    }
