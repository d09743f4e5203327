"""What the closed form promises of a method and a split is what the simulated cluster sustains."""

import pytest

from epd.policy.method import rank_methods
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.gateway import GatewayPlacer
from epd_sim.method_grid import OBJECTIVES, SHAPES, cell, draw
from epd_sim.observe import mean_shape, policy_slo
from epd_sim.policies import Setup, serve

COSTS = H200_QWEN3_VL_8B.slowed(3)


@pytest.mark.parametrize("slo", OBJECTIVES[:1], ids=["strict"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_a_picked_split_serves_most_of_what_it_promises_and_not_half_as_much_again(shapes, slo):
    setup = Setup(COSTS, slo)
    pick = rank_methods(8, COSTS.curves(), mean_shape(SHAPES[shapes]), policy_slo(slo))[0]

    def attained(factor: float) -> float:
        workload = draw(shapes, factor * pick.requests_per_s, seconds=30, seed=1)
        results = serve(setup, "pick", workload, (pick.pods, GatewayPlacer(), None)).results
        return results.attainment(slo)

    assert attained(0.85) >= 0.9, "seed 1"
    assert attained(1.5) < 0.9, "seed 1"


def test_a_cell_finds_the_best_of_all_splits_and_what_the_pick_is_worth_beside_it():
    setup = Setup(COSTS, OBJECTIVES[0], pods=3)
    found = cell(setup, "many images", OBJECTIVES[0], seconds=15)
    assert sum(found.picked[1].values()) == sum(found.best[1].values()) == 3
    assert found.picked[2] > 0
    assert found.best[2] >= found.picked[2]
    assert 0 < found.share <= 1
