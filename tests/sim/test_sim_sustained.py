"""A trial ends early and says what the whole run would; the search finds what is there to find."""

import pytest

from epd.vocabulary import Method
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.policies import POLICIES, Setup, placer_for, run, serve
from epd_sim.scenarios import SCENARIOS, smooth
from epd_sim.sustained import Trial, best_static, highest, meets_slo, splits, sustained_rate
from epd_sim.workload import Workload

SLO = SCENARIOS["smooth"].slo
SETUP = Setup(H200_QWEN3_VL_8B.slowed(3), SLO, pods=4)


def traffic(rate: float) -> Workload:
    """Return twenty seconds of it."""
    return smooth(rate, 20, seed=11)


@pytest.mark.parametrize("policy", ["elastic", "operator", "colocated", "arrow-v2"])
@pytest.mark.parametrize("rate", [4, 11, 14, 30])
def test_a_trial_says_what_the_whole_run_would(policy: str, rate: float) -> None:
    workload = traffic(rate)
    whole = run(SETUP, policy, workload).results.attainment(SLO) >= SLO.attainment
    assert meets_slo(SETUP, POLICIES[policy].plan(SETUP, workload), workload) is whole, "seed 11"


def test_a_trial_of_an_overloaded_cluster_ends_before_its_requests_do() -> None:
    workload = traffic(60)
    counts, placer, control = POLICIES["elastic"].plan(SETUP, workload)
    trial = Trial(SLO, len(workload), control)
    outcome = serve(SETUP, "trial", workload, (counts, placer, trial))
    whole = run(SETUP, "elastic", workload)
    assert not trial.holds
    assert len(outcome.world.ended) < len(whole.world.ended) / 2
    assert trial.good + trial.missed <= len(workload)


def test_what_a_trial_counts_at_its_end_is_the_results_own_count() -> None:
    workload = traffic(11)
    trial = Trial(SLO, 10**9, None)  # of so many requests it is never certain
    counts = next(splits(SETUP.method, SETUP.pods))
    results = serve(SETUP, "trial", workload, (counts, placer_for(SLO), trial)).results
    trial.count()
    assert trial.good == results.good(SLO).sum(), "seed 11"


def test_bisection_ends_between_what_holds_and_what_does_not() -> None:
    assert 6.9 < highest(lambda rate: rate < 7, 0, 16, 0.1) < 7


def test_splits_are_all_there_are_and_leave_no_role_empty() -> None:
    found = list(splits(Method.E_P_D, 8))
    assert len(found) == len({tuple(counts.values()) for counts in found}) == 21
    assert all(sum(counts.values()) == 8 and min(counts.values()) >= 1 for counts in found)
    assert list(splits(Method.EPD, 3)) == [dict.fromkeys(Method.EPD.roles, 3)]


def test_the_best_static_split_holds_where_no_other_one_does() -> None:
    counts, rate = best_static(SETUP, traffic, 4, 36, steps=4)
    assert rate > 0
    assert meets_slo(SETUP, (counts, placer_for(SLO), None), traffic(rate))
    for other in splits(SETUP.method, SETUP.pods):
        assert not meets_slo(SETUP, (other, placer_for(SLO), None), traffic(rate + 2)), other


def test_a_rate_that_is_too_much_from_the_start_is_no_rate() -> None:
    assert sustained_rate(SETUP, "colocated", traffic, 200, 400, steps=2) == 0.0
