"""When offline work may begin beside online work."""

import pytest

from epd.policy.admission import TPOT_SHARE, admits_offline, step_ms
from epd.policy.pods import Costs, PodView, StageView
from epd.vocabulary import Role, Stage

COSTS = Costs(decode_share=0.01, tpot_ms=50)


def prefilling(outstanding=0):
    pod = PodView("p", Role.PREFILL.stages)
    pod.loads[Stage.PREFILL].outstanding = outstanding
    return pod


def answering(outstanding=0, gap_ms=0.0, batch=0.0, **fields):
    pod = PodView("d", Role.DECODE.stages, **fields)
    pod.loads[Stage.DECODE] = StageView(
        outstanding, service_ms=100 * gap_ms, tokens=100 if gap_ms else 0, batch=batch
    )
    return pod


def test_an_idle_cluster_takes_offline_work():
    assert admits_offline([prefilling(), answering()], COSTS)


def test_a_prompt_at_work_keeps_offline_work_back():
    assert not admits_offline([prefilling(1), answering()], COSTS)


@pytest.mark.parametrize(("gap_ms", "admitted"), [(40, True), (48.5, True), (49, False)])
def test_answers_must_still_meet_the_tpot_with_one_more(gap_ms, admitted):
    """Ten ran when the gap was learnt, ten run now; an eleventh makes steps a percent longer."""
    pods = [prefilling(), answering(10, gap_ms, batch=10)]
    assert admits_offline(pods, COSTS) is admitted
    assert (step_ms(pods[1], 11, COSTS) <= TPOT_SHARE * 50) is admitted


def test_a_gap_that_was_learnt_at_another_batch_is_scaled_to_this_one():
    assert step_ms(answering(gap_ms=30, batch=0), 100, COSTS) == pytest.approx(60)
    assert step_ms(answering(gap_ms=60, batch=100), 0, COSTS) == pytest.approx(30)


def test_answers_whose_pace_nobody_knows_are_not_disturbed():
    assert not admits_offline([prefilling(), answering(1)], COSTS)
    assert admits_offline([prefilling(), answering(1)], Costs())


def test_a_full_or_waiting_or_sick_pod_takes_none():
    waits = answering(5, 20.0, batch=5)
    waits.loads[Stage.DECODE].waiting = 1
    full = answering(kv_used_permille=960)
    sick = answering(healthy=False)
    suspect = answering(suspect=True)
    for pod in (waits, full, sick, suspect):
        assert not admits_offline([prefilling(), pod], COSTS)
