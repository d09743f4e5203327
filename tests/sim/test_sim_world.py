"""The simulated world keeps its books: nothing is lost or left over, nothing is luck."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epd.vocabulary import Role, Stage
from epd_sim.batching import TWO_ENGINES, VLLM_0_32, Batching
from epd_sim.calls import Call
from epd_sim.costs import StageCosts
from epd_sim.datasets import DATASETS, llava_next
from epd_sim.hydrainfer import H800_VICUNA_7B, RoundRobin, batching_of
from epd_sim.pod import Pod
from epd_sim.workload import Request, Shape, arrive, poisson_gaps
from epd_sim.world import World, WorldSettings

SPLITS = {
    "EPD": [Role.ENCODE_PREFILL_DECODE] * 3,
    "EP-D": [Role.ENCODE_PREFILL] * 2 + [Role.DECODE],
    "ED-P": [Role.ENCODE_DECODE] * 2 + [Role.PREFILL],
    "E-P-D": [Role.ENCODE, Role.PREFILL, Role.DECODE],
}
BATCHINGS = {
    "two engines": TWO_ENGINES,
    "vLLM": VLLM_0_32,
    "HydraInfer": batching_of(Role.ENCODE_PREFILL_DECODE),
    "HydraInfer, paper": batching_of(Role.ENCODE_PREFILL_DECODE, images_wait=True),
    "small": replace(TWO_ENGINES, token_budget=300, max_running=3, image_budget=1),
}
TIGHT = replace(H800_VICUNA_7B, kv_tokens=9000, ec_tokens=4000)


def workload(seed: int, rate: float = 20.0, count: int = 40) -> list[Request]:
    rng = np.random.default_rng(seed)
    return arrive(poisson_gaps(rate, rng), llava_next(DATASETS["TextCaps"]), rng, count=count)


def world(
    split: str = "E-P-D",
    batching: Batching = TWO_ENGINES,
    costs: StageCosts = H800_VICUNA_7B,
    lease_s: float = 30.0,
) -> World:
    return World(
        SPLITS[split],
        costs,
        RoundRobin(),
        batching=batching,
        settings=WorldSettings(lease_s=lease_s),
    )


def assert_nothing_is_left(world: World) -> None:
    for pod in world.pods:
        if pod.alive:
            assert (pod.kv_used, pod.ec_used, pod.given, pod.decoding) == (0, 0, 0, 0), pod.name
            for stage, tally in pod.tallies.items():
                assert (tally.in_flight, tally.running) == (0, 0), (pod.name, stage)
    for call in world.calls:
        assert call.emitted == call.request.shape.output_tokens
        assert not call.pieces
        assert not call.embeddings


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("batching", BATCHINGS)
@given(seed=st.integers(0, 2**32), tight=st.booleans())
@settings(max_examples=8)
def test_every_request_ends_and_no_pod_holds_anything(
    split: str, batching: str, seed: int, tight: bool
) -> None:
    costs = TIGHT if tight else H800_VICUNA_7B
    here = world(split, BATCHINGS[batching], costs, lease_s=1e9)
    results = here.run(workload(seed))
    assert_nothing_is_left(here)
    assert not np.isnan(results.end_s).any()
    assert (results.ttft_ms > 0).all()
    assert (results.tpot_p90_ms >= 0).all()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
def test_equal_seeds_make_equal_histories(seed: int) -> None:
    first, second = (world().run(workload(seed)) for _ in range(2))
    assert first.events == second.events
    for column in ("ttft_ms", "tpot_mean_ms", "tpot_p90_ms", "end_s"):
        assert np.array_equal(getattr(first, column), getattr(second, column))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_running_many_steps_in_one_event_changes_no_token_time(seed: int) -> None:
    """Waking a pod all the time cuts every run into single steps: the slow way, step by step."""
    fast, slow = world("EP-D"), world("EP-D")

    def poke(_: object) -> None:
        for pod in slow.pods:
            pod.wake()
        if slow.open_calls or slow.clock.now_s < 2.0:
            slow.clock.after(0.004, poke)

    slow.clock.after(0.0, poke)
    quick, stepped = fast.run(workload(seed)), slow.run(workload(seed))
    assert stepped.events > quick.events
    np.testing.assert_allclose(quick.end_s, stepped.end_s, rtol=1e-9)
    np.testing.assert_allclose(quick.tpot_p90_ms, stepped.tpot_p90_ms, rtol=1e-6)


def test_a_slow_taker_slows_the_giver() -> None:
    """Decode has room for two: prefill fills up with what nobody takes, and later ones wait."""
    room = replace(H800_VICUNA_7B, kv_tokens=6000)
    shape = Shape(2000, 400)
    burst = [Request(i, 0.001 * i, shape) for i in range(12)]
    split = [Role.PREFILL, Role.DECODE]
    held = World(split, room, RoundRobin(), settings=WorldSettings(lease_s=1e9)).run(burst)
    free = World(split, H800_VICUNA_7B, RoundRobin()).run(burst)
    assert held.ttft_ms[-1] > 3 * free.ttft_ms[-1]
    assert held.ttft_ms[0] == free.ttft_ms[0]


def test_a_handoff_that_nobody_takes_in_time_is_computed_anew() -> None:
    room = replace(H800_VICUNA_7B, kv_tokens=6000)
    burst = [Request(i, 0.001 * i, Shape(2000, 400)) for i in range(6)]
    here = World(
        [Role.PREFILL, Role.DECODE], room, RoundRobin(), settings=WorldSettings(lease_s=2.0)
    )
    results = here.run(burst)
    assert results.retries > 0
    assert_nothing_is_left(here)


@given(seed=st.integers(0, 2**32), victim=st.integers(0, 5), when_s=st.floats(0.05, 3.0))
@settings(max_examples=40)
def test_a_pod_that_dies_costs_no_request_and_no_token(
    seed: int, victim: int, when_s: float
) -> None:
    here = World(SPLITS["E-P-D"] * 2, H800_VICUNA_7B, RoundRobin())
    here.clock.at(when_s, lambda _: here.fail_pod(here.pods[victim]))
    results = here.run(workload(seed))
    assert_nothing_is_left(here)
    assert not np.isnan(results.end_s).any()


def test_decoding_where_it_was_prefilled_needs_no_handoff() -> None:
    here = world("EPD")
    results = here.run([Request(0, 0.0, Shape(100, 20))])
    assert results.handoffs == 0


class _Counting(RoundRobin):
    def __init__(self) -> None:
        super().__init__()
        self.open = 0

    def began(self, call: Call, stage: Stage, pod: Pod) -> None:
        self.open += 1

    def ended(self, call: Call, stage: Stage, pod: object) -> None:
        self.open -= 1


def test_a_placer_hears_the_end_of_everything_it_placed() -> None:
    placer = _Counting()
    here = World(SPLITS["E-P-D"] * 2, TIGHT, placer, settings=WorldSettings(lease_s=1.0))
    here.clock.at(1.0, lambda _: here.fail_pod(here.pods[2]))
    here.run(workload(3))
    assert placer.open == 0
