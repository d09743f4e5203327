"""Every named policy runs a cluster, and ours does what the issue asks of it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from epd.policy.control_view import Limits
from epd.vocabulary import Method, Role
from epd_sim.control import ElasticControl, ElasticSettings, fluid_goodput
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.gateway import GatewayPlacer, GatewaySettings
from epd_sim.observe import offered_pods
from epd_sim.policies import POLICIES, Setup, run
from epd_sim.scenarios import SCENARIOS, square_wave, with_offline
from epd_sim.study import split_over_time
from epd_sim.world import World, WorldSettings

SLO = SCENARIOS["square-wave"].slo
SETUP = Setup(H200_QWEN3_VL_8B.slowed(3), SLO)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_every_request(policy: str) -> None:
    workload = square_wave(6, 60, seed=2, period_s=30)
    outcome = run(replace(SETUP, churn_start_s=10), policy, workload)
    assert not np.isnan(outcome.results.end_s).any(), "seed 2"
    assert len(outcome.results) == len(workload)
    for pod in outcome.world.pods:
        assert (pod.kv_used, pod.given) == (0, 0), pod.name


@pytest.mark.parametrize("seed", range(3))
def test_goodput_stays_below_the_fluid_limit(seed: int) -> None:
    workload = square_wave(30, 40, seed, period_s=20)
    limit = fluid_goodput(workload, SETUP.costs.curves(), SLO, SETUP.pods, window_s=40)
    for policy in ("elastic", "colocated", "clairvoyant"):
        goodput = run(SETUP, policy, workload).results.goodput(SLO)
        assert goodput <= limit * 1.02, f"{policy}, seed {seed}"


@pytest.mark.parametrize("policy", ["elastic", "operator"])
def test_ours_follows_a_square_wave_of_image_share(policy: str) -> None:
    """With images the fleet leans to encode and prefill, with chats to decode."""
    outcome = run(SETUP, policy, square_wave(12, 240, seed=3, period_s=240))
    timeline = split_over_time(outcome)

    def decoding(at_s: float) -> int:
        return [counts for when_s, counts in timeline if when_s <= at_s][-1][Role.DECODE]

    with_images, with_chats = decoding(115), decoding(235)
    assert with_chats > with_images, f"seed 3: {timeline}"


@pytest.mark.parametrize("period_s", [7, 20, 60, 150])
def test_ours_does_not_flip_more_often_than_the_budget_allows(period_s: int) -> None:
    limits = Limits(cooldown_s=10, max_concurrent_flips=1)
    setup = replace(SETUP, elastic=ElasticSettings(limits=limits))
    seconds = 150
    outcome = run(setup, "elastic", square_wave(10, seconds, seed=4, period_s=period_s))
    end_s = outcome.world.clock.now_s
    assert len(outcome.world.flips) <= end_s / setup.elastic.interval_s + 1, f"period {period_s}"
    by_pod: dict[int, list[float]] = {}
    for at_s, pod, _ in outcome.world.flips:
        by_pod.setdefault(pod, []).append(at_s)
    for times in by_pod.values():
        assert all(b - a >= limits.cooldown_s for a, b in itertools.pairwise(times))


def test_a_flip_is_known_to_gateways_late_and_loses_nothing() -> None:
    slow = GatewaySettings(label_ms=3000, label_spread_ms=2000, report_ms=500)
    world = World(
        [Role.ENCODE] * 2 + [Role.PREFILL] * 3 + [Role.DECODE] * 3,
        SETUP.costs,
        GatewayPlacer(slow),
        controller=ElasticControl(
            Method.E_P_D, SLO, ElasticSettings(settle_s=5.0, limits=Limits(cooldown_s=5))
        ),
        settings=WorldSettings(gateways=3),
    )
    results = world.run(square_wave(8, 120, seed=5, period_s=60))
    assert world.flips
    assert not np.isnan(results.end_s).any(), "seed 5"


def test_pods_that_fail_under_our_control_cost_no_request() -> None:
    workload = square_wave(6, 90, seed=6, period_s=60)
    world = World(
        [Role.ENCODE] * 2 + [Role.PREFILL] * 3 + [Role.DECODE] * 3,
        SETUP.costs,
        GatewayPlacer(),
        controller=ElasticControl(Method.E_P_D, SLO),
    )
    for at_s, victim in ((20.0, 1), (40.0, 6)):
        world.clock.at(at_s, lambda pod: world.fail_pod(world.pods[pod]), victim)
    results = world.run(workload)
    assert not np.isnan(results.end_s).any(), "seed 6"
    assert results.retries > 0


def test_demand_of_decode_weighs_contexts_by_the_tokens_that_see_them() -> None:
    """Long prompts with short answers must not make the short prompts' long answers dearer."""
    workload = square_wave(10, 240, seed=7)
    curves = SETUP.costs.curves()
    parts = [
        [request for request in workload if bool(request.shape.image_tokens) is images]
        for images in (True, False)
    ]
    together = offered_pods(workload, 240, curves, SLO)
    apart = [offered_pods(part, 240, curves, SLO) for part in parts]
    for stage, pods in together.items():
        assert pods == pytest.approx(sum(part[stage] for part in apart), rel=0.1), stage


def test_offline_work_takes_what_online_work_leaves() -> None:
    """Three times as much offline work as online: in line it costs online next to nothing."""
    scenario = SCENARIOS["smooth"]
    setup = Setup(H200_QWEN3_VL_8B.slowed(3), scenario.slo, pods=4)
    online = scenario.make(6, 90, 1)
    workload = with_offline(online, 18, 90, 2)
    is_online = np.array([request.shape.online for request in workload])

    def attained(policy: str) -> float:
        results = run(setup, policy, workload).results
        return float(results.good(scenario.slo)[is_online].mean())

    alone = run(setup, "elastic", online).results.attainment(scenario.slo)
    assert attained("elastic-classes") >= alone - 0.03
    assert attained("elastic") < alone - 0.1
