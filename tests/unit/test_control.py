"""Which pods change role: each rule of `epd.policy.control`, one at a time."""

from dataclasses import replace

import pytest
from control_worlds import counts_of, demand, enacted, fleet

from epd.policy.control import decide
from epd.policy.control_view import (
    Bounds,
    ClusterView,
    Decision,
    Limits,
    PodState,
    ReasonCode,
    Slo,
    StageDemand,
)
from epd.policy.hysteresis import Hysteresis
from epd.vocabulary import Method, Role, Stage

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
EPD = Role.ENCODE_PREFILL_DECODE


def view(pods=None, stages=None, now_s=100.0, **more):
    pods = fleet(encode=2, prefill=3, decode=3) if pods is None else pods
    return ClusterView(now_s, pods, stages or demand(0.5, 4.0, 1.8), **more)


def second_pass(at):
    """Decide twice, five seconds apart: the first pass has nothing to compare with."""
    _, memory = decide(at)
    decision, _ = decide(replace(at, now_s=at.now_s + 5), memory)
    return decision


def passes(at, count, seconds=5.0):
    memory, decisions = None, []
    for _ in range(count):
        decision, memory = decide(at, memory)
        decisions.append(decision)
        at = replace(at, now_s=at.now_s + seconds, pods=enacted(at, decision))
    return at, decisions


def moves(decision: Decision):
    return [(flip.from_role, flip.to_role) for flip in decision.flips]


def hold_of(decision):
    return decision.hold and decision.hold.code


# --- where it is headed ---------------------------------------------------------------------------


def test_the_idlest_role_gives_a_pod_to_the_busiest():
    decision = second_pass(view())
    assert moves(decision) == [(E, P)]
    assert decision.desired == {E: 1, P: 5, D: 2}
    assert decision.hold is None


def test_flips_follow_one_another_until_the_split_is_reached_and_then_rest():
    at, decisions = passes(view(), 12)
    assert counts_of(at.pods) == {E: 1, P: 5, D: 2}
    assert hold_of(decisions[-1]) is ReasonCode.BALANCED
    assert not any(decision.flips for decision in decisions[-4:])


def test_the_reasons_name_the_demand_of_every_role_and_what_the_split_would_bring():
    text = [str(reason) for reason in second_pass(view()).reasons]
    assert text == [
        "Demand encode: demand_pods=0.5, lasting_pods=0.5, pods=2",
        "Demand prefill: demand_pods=4, lasting_pods=4, pods=3",
        "Demand decode: demand_pods=1.8, lasting_pods=1.8, pods=3",
        "BestSplit E-P-D: utilisation=1.333, target_utilisation=0.9",
    ]


def test_a_role_of_two_stages_serves_the_demand_of_both():
    at = view(fleet(encode_prefill=2, decode=4), demand(1.5, 1.5, 1.0), method=Method.EP_D)
    assert moves(second_pass(at)) == [(D, Role.ENCODE_PREFILL)]


def test_what_a_pod_sustains_under_the_slo_scales_the_demand():
    stages = {**demand(0.5, 0, 1.8), Stage.PREFILL: StageDemand(2.0, max_utilisation=0.5)}
    assert second_pass(view(stages=stages)).desired == {E: 1, P: 5, D: 2}


def test_the_advised_fleet_is_what_the_demand_needs_whatever_there_is():
    assert second_pass(view(stages=demand(2.5, 11.0, 6.2))).fleet_pods == 3 + 11 + 7


def test_a_forecast_adds_what_a_rising_demand_will_have_become():
    def needed(forecast_s):
        memory = None
        for index in range(8):
            stages = demand(0.5, 0.5 * index, 1.0)
            at = view(stages=stages, now_s=5.0 * index, limits=Limits(forecast_s=forecast_s))
            decision, memory = decide(at, memory)
        return decision.reasons[1].numbers["demand_pods"]

    assert needed(0.0) == pytest.approx(3.5)
    assert 3.5 < needed(10.0) <= 3.5 + 10 * 0.1


# --- which pods -----------------------------------------------------------------------------------


def test_the_pod_with_the_least_work_of_the_stages_it_loses_is_flipped():
    busy = tuple(
        replace(pod, stranded_ms={Stage.ENCODE: ms})
        for pod, ms in zip(fleet(encode=3), (50.0, 10.0, 30.0), strict=True)
    )
    decision = second_pass(view(busy + fleet(prefill=2, decode=2), demand(0.3, 3.0, 1.0)))
    assert [flip.pod for flip in decision.flips] == ["encode-1"]


def test_of_equals_the_pod_that_still_holds_work_of_its_new_stage_is_flipped():
    warm = PodState("encode-9", E, stranded_ms={Stage.PREFILL: 400.0})
    pods = (*fleet(encode=2, prefill=2, decode=2), warm)
    decision = second_pass(view(pods, demand(0.3, 3.0, 1.0)))
    assert [flip.pod for flip in decision.flips] == ["encode-9"]


def test_several_flips_at_once_never_take_one_pod_twice():
    at = view(
        fleet(encode=6, prefill=1, decode=1),
        demand(0.5, 3.0, 3.0),
        limits=Limits(max_concurrent_flips=8),
    )
    decision = second_pass(at)
    assert len({flip.pod for flip in decision.flips}) == len(decision.flips) == 5
    assert counts_of(enacted(at, decision)) == {E: 1, P: 4, D: 3}


# --- guards ---------------------------------------------------------------------------------------


def test_a_first_pass_only_looks():
    decision, _ = decide(view())
    assert hold_of(decision) is ReasonCode.DEADBAND


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"age_s": 31.0}, "prefill"),
        ({"age_s": -3.0}, "prefill"),
        ({"offered_pods": float("nan")}, "prefill"),
        ({"queue_ms": -1.0}, "prefill"),
    ],
)
def test_stale_or_impossible_metrics_hold_and_say_which(change, subject):
    stages = demand(0.5, 4.0, 1.8)
    stages[Stage.PREFILL] = replace(stages[Stage.PREFILL], **change)
    decision = second_pass(view(stages=stages))
    assert hold_of(decision) is ReasonCode.METRICS_STALE
    assert decision.hold.subject == subject
    assert decision.desired == {E: 2, P: 3, D: 3}


def test_metrics_of_half_the_pods_hold():
    assert hold_of(second_pass(view(reporting_share=0.5))) is ReasonCode.METRICS_STALE


def test_nothing_is_flipped_while_as_many_flips_as_allowed_are_in_flight():
    pods = (replace(fleet(encode=1)[0], settled=False), *fleet(decode=4, prefill=3))
    decision = second_pass(view(pods))
    assert hold_of(decision) is ReasonCode.FLIP_IN_FLIGHT
    assert decision.hold.numbers == {"in_flight": 1}


def test_a_role_that_gained_a_pod_lately_gives_none():
    pods = (*fleet(encode=1, prefill=3, decode=3), PodState("new", D, flipped_at_s=99.0))
    assert hold_of(second_pass(view(pods))) is ReasonCode.COOLDOWN


def test_a_flip_time_ahead_of_the_clock_holds_only_as_long_as_it_is_near():
    near = tuple(replace(pod, flipped_at_s=108.0) for pod in fleet(encode=3))
    far = tuple(replace(pod, flipped_at_s=9e9) for pod in fleet(encode=3))
    rest = fleet(prefill=2, decode=2)
    assert hold_of(second_pass(view(near + rest, demand(0.3, 3.0, 1.0)))) is ReasonCode.COOLDOWN
    assert second_pass(view(far + rest, demand(0.3, 3.0, 1.0))).flips


def test_bounds_that_forbid_a_better_split_are_the_reason():
    bounds = {E: Bounds(2), P: Bounds(1), D: Bounds(2, 2)}
    at = view(fleet(encode=2, prefill=1, decode=2), demand(0.1, 1.0, 4.0), bounds=bounds)
    assert hold_of(second_pass(at)) is ReasonCode.MINIMUM


def test_no_role_gives_below_its_minimum_to_one_that_has_nothing():
    at = view(fleet(encode=1, prefill=1), demand(0.1, 1.0, 4.0))
    assert hold_of(second_pass(at)) is ReasonCode.MINIMUM


def test_the_budget_counts_all_flips_of_a_cooldown():
    flipped = tuple(PodState(f"new-{n}", P, flipped_at_s=101.0) for n in range(2))
    pods = fleet(encode=3, decode=2) + flipped
    limits = Limits(max_concurrent_flips=4, max_flips_per_cooldown=2)
    decision = second_pass(view(pods, demand(0.5, 4.0, 1.0), limits=limits))
    assert hold_of(decision) is ReasonCode.BUDGET_SPENT
    limits = replace(limits, max_flips_per_cooldown=3)
    assert len(second_pass(view(pods, demand(0.5, 4.0, 1.0), limits=limits)).flips) == 1


def test_a_gain_within_the_deadband_rests_for_ever():
    _, decisions = passes(view(stages=demand(1.0, 2.9, 3.0)), 20)
    assert not any(decision.flips for decision in decisions)
    assert hold_of(decisions[-1]) in (ReasonCode.DEADBAND, ReasonCode.BALANCED)


def test_few_samples_widen_the_deadband():
    def flips(samples):
        _, decisions = passes(view(stages=demand(0.5, 4.0, 1.8, samples=samples)), 20)
        return sum(len(decision.flips) for decision in decisions)

    assert flips(2) == 0
    assert flips(2000) == 2


def test_without_ready_pods_there_is_nothing_to_decide():
    pods = tuple(replace(pod, ready=False) for pod in fleet(prefill=2))
    decision, memory = decide(view(pods))
    assert hold_of(decision) is ReasonCode.NO_PODS
    assert memory.at_s is None


# --- breaches -------------------------------------------------------------------------------------


def breached(queue_ms, **more):
    stages = demand(0.5, 2.5, 1.8)
    stages[Stage.PREFILL] = replace(stages[Stage.PREFILL], queue_ms=queue_ms, service_ms=200.0)
    return view(stages=stages, **more)


def test_a_predicted_ttft_breach_flips_at_once():
    decision, _ = decide(breached(900.0))
    assert moves(decision) == [(E, P)]
    assert decision.urgent
    assert ReasonCode.TTFT_BREACH_PREDICTED in [reason.code for reason in decision.reasons]


def test_a_ttft_that_keeps_to_the_slo_is_no_breach():
    decision, _ = decide(breached(700.0))
    assert not decision.flips
    assert not decision.urgent


def test_a_breach_takes_only_pods_that_other_work_does_not_need():
    stages = demand(1.0, 2.5, 4.0)
    stages[Stage.PREFILL] = replace(stages[Stage.PREFILL], queue_ms=60_000.0)
    decision, _ = decide(view(fleet(encode=1, prefill=3, decode=4), stages))
    assert not decision.flips


def test_a_breach_breaks_no_cooldown():
    pods = tuple(replace(pod, flipped_at_s=95.0) for pod in fleet(encode=2, decode=3))
    decision, _ = decide(replace(breached(9000.0), pods=pods + fleet(prefill=3)))
    assert hold_of(decision) is ReasonCode.COOLDOWN


def test_a_tpot_breach_counts_once_it_has_lasted_a_cooldown():
    at = view(stages=demand(0.5, 2.0, 2.0), tpot_ms=80.0, slo=Slo(tpot_ms=50.0))
    _, decisions = passes(at, 4)
    assert not decisions[0].urgent
    assert not decisions[1].urgent
    assert decisions[2].urgent
    assert moves(decisions[2]) == [(E, D)]


def test_a_tpot_that_recovered_starts_counting_anew():
    at = view(stages=demand(0.5, 2.0, 2.0), tpot_ms=80.0, slo=Slo(tpot_ms=50.0))
    _, memory = decide(at)
    _, memory = decide(replace(at, now_s=105.0, tpot_ms=40.0), memory)
    decision, _ = decide(replace(at, now_s=111.0), memory)
    assert not decision.urgent


# --- other methods, lost pods, lost memory --------------------------------------------------------


def test_another_method_moves_the_pods_of_roles_it_does_not_deal_out_first():
    at = view(fleet(encode_prefill_decode=4, decode=1), demand(0.5, 1.5, 1.0))
    at, decisions = passes(at, 8)
    assert counts_of(at.pods) == {E: 1, P: 2, D: 2}
    assert decisions[0].reasons[-1].code is ReasonCode.METHOD_CHANGED
    assert all(flip[0] is EPD for decision in decisions for flip in moves(decision))


def test_a_role_that_lost_its_last_pod_gets_one_at_once():
    decision, _ = decide(view(fleet(encode=2, prefill=3), demand(0.5, 1.5, 1.0)))
    assert [flip.to_role for flip in decision.flips] == [D]
    assert decision.reasons[-1].code is ReasonCode.BELOW_MINIMUM


def test_losing_the_memory_changes_when_not_what():
    at, memory = view(), None
    for index in range(30):
        decision, memory = decide(at, memory)
        at = replace(at, now_s=at.now_s + 5, pods=enacted(at, decision))
        if index % 3 == 2:
            memory = None
    kept, _ = passes(view(), 12)
    assert counts_of(at.pods) == counts_of(kept.pods)


def test_a_flip_taken_back_before_it_paid_doubles_the_price():
    at, memory = view(), None
    for index in range(24):
        busy_prefill = index % 4 < 2  # ten seconds each
        stages = demand(0.5, 4.2, 1.5) if busy_prefill else demand(0.5, 1.5, 4.2)
        decision, memory = decide(replace(at, demand=stages), memory)
        at = replace(at, now_s=at.now_s + 5, pods=enacted(at, decision))
    assert memory.hysteresis.price > 2
    assert Hysteresis().price == 1


def test_a_pod_that_the_method_does_not_deal_out_keeps_its_cooldown_too():
    new = tuple(replace(pod, flipped_at_s=99.0) for pod in fleet(encode_prefill_decode=3))
    decision, _ = decide(view(new + fleet(decode=1), demand(0.5, 1.5, 1.0)))
    assert hold_of(decision) is ReasonCode.COOLDOWN


def test_short_gains_far_apart_never_add_up_to_a_flip():
    at, memory = view(fleet(encode=1, prefill=4, decode=3)), None
    for index in range(200):
        stages = demand(0.5, 3.0, 3.21 if index % 10 == 0 else 2.3)
        decision, memory = decide(replace(at, now_s=5.0 * index, demand=stages), memory)
        assert not decision.flips
