"""Prefix caches of pods, and prompts that go where one was prefilled that begins alike."""

from dataclasses import replace

import numpy as np
import pytest

from epd.vocabulary import Role, Stage
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.gateway import GatewayPlacer, GatewaySettings
from epd_sim.prefixes import BLOCK_TOKENS, PrefixCache
from epd_sim.results import Results
from epd_sim.workload import Request, Shape, Workload, arrive, poisson_gaps
from epd_sim.world import World, WorldSettings

COSTS = H200_QWEN3_VL_8B.slowed(3)
ROLES = [Role.ENCODE_PREFILL] * 4 + [Role.DECODE] * 2


def test_a_cache_finds_leading_blocks_and_leaves_a_token_to_compute():
    cache = PrefixCache()
    cache.keep((1, 2, 3), 10_000)
    assert cache.find((1, 2, 9, 3), 2000) == 2 * BLOCK_TOKENS
    assert cache.find((9, 2), 2000) == 0
    assert cache.find((1, 2, 3), 3 * BLOCK_TOKENS) == 3 * BLOCK_TOKENS - 1


def test_a_cache_lets_go_of_what_was_used_least_lately():
    cache = PrefixCache()
    cache.keep((1, 2), 10_000)
    cache.keep((3,), 10_000)
    cache.find((1, 2), 2000)
    cache.keep((4,), 3 * BLOCK_TOKENS)
    assert cache.find((3,), 2000) == 0
    assert cache.find((1, 2), 2000) > 0


def test_a_repeated_prompt_costs_its_pod_next_to_nothing():
    shape = Shape(4096, 1, prefix_keys=tuple(range(8)))
    results, world = served([Request(0, 0.0, shape), Request(1, 10.0, shape)], prefixes=True)
    first_ms, second_ms = results.ttft_ms
    assert second_ms < first_ms / 5
    assert sum(pod.prefixes.hit_tokens for pod in world.pods) == 4095


def conversations(rate: float, seconds: float, seed: int) -> list[Request]:
    """Return sixty conversations that go on in turn: each prompt begins with the one before."""
    rng = np.random.default_rng(seed)
    turns: dict[int, int] = {}

    def draw(rng: np.random.Generator) -> Shape:
        talk = int(rng.integers(60))
        turns[talk] = blocks = turns.get(talk, 3) + 1
        keys = tuple(talk * 1000 + block for block in range(blocks))
        return Shape(blocks * BLOCK_TOKENS, 20, prefix_keys=keys)

    return arrive(poisson_gaps(rate, rng), draw, rng, seconds=seconds)


def served(workload: Workload, *, prefixes: bool) -> tuple[Results, World]:
    placer = GatewayPlacer(GatewaySettings(prefixes=prefixes))
    world = World(ROLES, COSTS, placer, settings=WorldSettings(gateways=2))
    return world.run(workload), world


@pytest.mark.parametrize("seed", range(2))
def test_affinity_finds_more_of_each_prompt_and_brings_the_first_token_sooner(seed: int) -> None:
    workload = conversations(8, 60, seed)
    (near, near_world), (apart, apart_world) = (
        served(workload, prefixes=prefixes) for prefixes in (True, False)
    )
    hits = [sum(p.prefixes.hit_tokens for p in w.pods) for w in (near_world, apart_world)]
    assert hits[0] > 1.2 * hits[1], f"seed {seed}"
    assert np.mean(near.ttft_ms) < 0.8 * np.mean(apart.ttft_ms), f"seed {seed}"


def test_a_prefix_that_everybody_has_makes_no_hot_spot() -> None:
    shape = Shape(2048, 20, prefix_keys=(1, 2))
    rng = np.random.default_rng(1)
    workload = arrive(poisson_gaps(30, rng), lambda _: replace(shape), rng, seconds=30)
    _, world = served(workload, prefixes=True)
    prompts = [pod.tallies[Stage.PREFILL].finished for pod in world.pods[:4]]
    assert min(prompts) > 0.5 * max(prompts), "seed 1"
