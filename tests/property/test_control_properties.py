"""What `decide` and `split` never do, whatever they see."""

from dataclasses import replace
from math import inf, nan

from control_worlds import World, counts_of, demand, enacted, fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from epd.policy.control import ControlMemory, decide
from epd.policy.control_view import (
    Bounds,
    ClusterView,
    Limits,
    PodState,
    ReasonCode,
    StageDemand,
)
from epd.policy.split import fleet_pods, split, utilisation
from epd.vocabulary import Method, Role, Stage

quick = settings(max_examples=40, deadline=None)
slow = settings(max_examples=15, deadline=None)
ROLES = (Role.ENCODE, Role.PREFILL, Role.DECODE)
work = st.one_of(st.just(0.0), st.floats(0.01, 40))
demands = st.fixed_dictionaries(dict.fromkeys(ROLES, work))


@st.composite
def bounds_of(draw, roles=ROLES):
    found = {}
    for role in roles:
        least = draw(st.integers(0, 4))
        most = draw(st.one_of(st.none(), st.integers(max(1, least), 12)))
        found[role] = Bounds(least, most)
    return found


@st.composite
def views(draw):
    method = draw(st.sampled_from(Method))
    limits = Limits(
        cooldown_s=draw(st.sampled_from([0.0, 1.0, 10.0, 60.0])),
        max_concurrent_flips=draw(st.integers(1, 6)),
        max_flips_per_cooldown=draw(st.one_of(st.none(), st.integers(0, 4))),
        deadband=draw(st.sampled_from([0.0, 0.05, 0.3])),
        forecast_s=draw(st.sampled_from([0.0, 5.0])),
    )
    pods = tuple(
        PodState(
            f"pod-{index}",
            draw(st.sampled_from(Role)),
            draw(st.booleans()),
            draw(st.booleans()),
            draw(st.one_of(st.none(), st.floats(-100, 110))),
            {stage: draw(st.floats(0, 1e4)) for stage in draw(st.sets(st.sampled_from(Stage)))},
        )
        for index in range(draw(st.integers(0, 14)))
    )
    stages = {
        stage: StageDemand(
            draw(work),
            draw(st.floats(0.2, 1)),
            draw(st.one_of(st.just(0.0), st.floats(0, 1e5))),
            draw(st.floats(0, 1e3)),
            draw(st.one_of(st.none(), st.integers(0, 10**4))),
        )
        for stage in Stage
    }
    tpot_ms = draw(st.one_of(st.none(), st.floats(0, 500)))
    return ClusterView(
        100.0, pods, stages, method, bounds=draw(bounds_of(method.roles)), limits=limits,
        tpot_ms=tpot_ms,
    )  # fmt: skip


def later(view, seconds, pods):
    return replace(view, now_s=view.now_s + seconds, pods=pods)


# --- split ----------------------------------------------------------------------------------------


@given(st.integers(0, 60), demands, bounds_of())
def test_a_split_adds_up_to_the_fleet(size, work, bounds):
    assert sum(split(size, work, bounds).values()) == size


@given(st.integers(0, 60), demands, bounds_of())
def test_a_split_keeps_bounds_wherever_the_fleet_allows(size, work, bounds):
    pods = split(size, work, bounds)
    if size >= sum(bound.min_pods for bound in bounds.values()):
        assert all(pods[role] >= bounds[role].min_pods for role in ROLES)
    else:
        assert all(pods[role] <= bounds[role].min_pods for role in ROLES)
    most = [bound.max_pods for bound in bounds.values()]
    if None in most or size <= sum(most):
        assert all(b.max_pods is None or pods[role] <= b.max_pods for role, b in bounds.items())


@given(st.integers(0, 60), demands, bounds_of(), st.sampled_from(ROLES), st.floats(0.01, 20))
def test_more_demand_of_a_role_never_means_fewer_pods_for_it(size, work, bounds, role, more):
    grown = {**work, role: work[role] + more}
    assert split(size, grown, bounds)[role] >= split(size, work, bounds)[role]


@given(st.integers(0, 60), demands, bounds_of())
def test_a_larger_fleet_never_means_fewer_pods_for_a_role(size, work, bounds):
    smaller, larger = split(size, work, bounds), split(size + 1, work, bounds)
    assert all(larger[role] >= smaller[role] for role in ROLES)


@given(st.integers(3, 14), demands)
def test_no_other_split_leaves_the_busiest_role_less_busy(size, work):
    best = utilisation(work, split(size, work, {}))
    for encode in range(1, size - 1):
        for prefill in range(1, size - encode):
            other = dict(zip(ROLES, (encode, prefill, size - encode - prefill), strict=True))
            assert best <= utilisation(work, other) + 1e-9


@given(demands, bounds_of())
def test_the_advised_fleet_is_the_smallest_that_serves_the_demand(work, bounds):
    free = {role: Bounds(bound.min_pods) for role, bound in bounds.items()}
    size = fleet_pods(work, free)
    assert utilisation(work, split(size, work, free)) <= 1 + 1e-6
    if size > sum(bound.min_pods for bound in free.values()):
        assert utilisation(work, split(size - 1, work, free)) > 1 - 1e-6


# --- one decision ---------------------------------------------------------------------------------


@quick
@given(views())
def test_flips_are_of_ready_pods_to_roles_of_the_method_and_each_pod_once(view):
    decision, _ = decide(view)
    by_name = {pod.name: pod for pod in view.pods}
    assert len({flip.pod for flip in decision.flips}) == len(decision.flips)
    for flip in decision.flips:
        assert by_name[flip.pod].ready
        assert by_name[flip.pod].role is flip.from_role is not flip.to_role
        assert flip.to_role in view.method.roles
    assert decision.hold is None or not decision.flips
    assert decision.hold is not None or decision.flips


@quick
@given(views())
def test_no_flip_breaks_cooldown_budget_concurrency_or_minimum(view):
    decision, _ = decide(view)
    limits = view.limits
    by_name = {pod.name: pod for pod in view.pods}
    in_flight = sum(pod.ready and not pod.settled for pod in view.pods)
    assert not decision.flips or len(decision.flips) + in_flight <= limits.max_concurrent_flips
    for flip in decision.flips:
        at_s = by_name[flip.pod].flipped_at_s
        assert at_s is None or abs(view.now_s - at_s) >= limits.cooldown_s
    if limits.max_flips_per_cooldown is not None:
        recent = sum(
            pod.flipped_at_s is not None and abs(view.now_s - pod.flipped_at_s) < limits.cooldown_s
            for pod in view.pods
        )
        assert not decision.flips or recent + len(decision.flips) <= limits.max_flips_per_cooldown
    before, after = counts_of(view.pods), counts_of(enacted(view, decision))
    for role in view.method.roles:
        least = view.bounds[role].min_pods
        assert after.get(role, 0) >= min(least, before.get(role, 0))


@quick
@given(
    views(),
    st.sampled_from(Stage),
    st.sampled_from(
        [
            {"age_s": 31.0}, {"age_s": -5.0}, {"age_s": nan}, {"offered_pods": nan},
            {"offered_pods": -1.0}, {"offered_pods": inf}, {"queue_ms": nan}, {"queue_ms": -1.0},
            {"service_ms": nan}, {"max_utilisation": -0.1}, {"max_utilisation": nan}, None,
            "half the pods are silent", "an impossible TPOT",
        ]
    ),
)  # fmt: skip
def test_nothing_flips_on_metrics_that_are_stale_missing_or_impossible(view, stage, fault):
    if fault is None:
        view = replace(view, demand={s: d for s, d in view.demand.items() if s is not stage})
    elif fault == "half the pods are silent":
        view = replace(view, reporting_share=0.5)
    elif fault == "an impossible TPOT":
        view = replace(view, tpot_ms=nan)
    else:
        view = replace(view, demand={**view.demand, stage: replace(view.demand[stage], **fault)})
    memory = ControlMemory(at_s=95.0)
    decision, after = decide(view, memory)
    assert not decision.flips
    assert decision.hold.code in (ReasonCode.METRICS_STALE, ReasonCode.NO_PODS)
    assert after is memory


@quick
@given(views())
def test_equal_views_and_memories_give_equal_decisions(view):
    first, memory = decide(view)
    again, same = decide(view)
    assert (first, memory) == (again, same)
    assert decide(later(view, 5, view.pods), memory) == decide(later(view, 5, view.pods), same)


@quick
@given(views())
def test_a_decision_headed_elsewhere_names_a_split_of_all_ready_pods(view):
    decision, _ = decide(view)
    ready = sum(pod.ready for pod in view.pods)
    strangers = sum(pod.ready and pod.role not in view.method.roles for pod in view.pods)
    assert sum(decision.desired.values()) in (ready, ready - strangers)


# --- many decisions -------------------------------------------------------------------------------


@given(views(), st.booleans())
@slow
def test_under_a_constant_demand_the_split_comes_to_rest_whether_or_not_memory_is_lost(view, lost):
    view = replace(
        view,
        limits=replace(view.limits, deadband=0.05, max_flips_per_cooldown=None, cooldown_s=10.0),
        pods=tuple(replace(pod, settled=True) for pod in view.pods),
        tpot_ms=None,
        demand={s: replace(d, queue_ms=0.0, samples=None) for s, d in view.demand.items()},
    )
    memory = None
    utilisations = []
    for index in range(8 * len(view.pods) + 20):
        decision, memory = decide(view, memory)
        view = later(view, 5.0, enacted(view, decision))
        if lost and index % 7 == 6:
            memory = None
        rests = decision.hold is not None and decision.hold.code in (
            ReasonCode.BALANCED, ReasonCode.DEADBAND, ReasonCode.MINIMUM, ReasonCode.NO_PODS,
        )  # fmt: skip
        utilisations.append(rests)
    assert all(utilisations[-4:])


@given(
    st.floats(1.0, 200.0),
    st.sampled_from([2, 3, 6]),
    st.sampled_from([2.0, 5.0]),
    st.integers(1, 4),
    st.integers(6, 16),
    st.floats(0.3, 0.75),
    st.floats(0.05, 0.45),
)
@slow
def test_on_a_square_wave_of_any_period_flips_pay_or_become_rare_and_do_no_harm(
    half_s, window_intervals, interval_s, at_once, size, load, swing
):
    def offered(at_s):
        tilt = swing if int(at_s // half_s) % 2 else -swing
        busy = size * load
        return {
            Stage.ENCODE: 0.1 * busy,
            Stage.PREFILL: (0.45 + 0.9 * tilt) * busy,
            Stage.DECODE: (0.45 - 0.9 * tilt) * busy,
        }

    world = World(
        fleet(encode=1, prefill=size // 2, decode=size - 1 - size // 2),
        offered,
        limits=Limits(max_concurrent_flips=at_once),
        interval_s=interval_s,
        window_s=window_intervals * interval_s,
    )
    world.run(int(1800 / interval_s))
    assert world.mean_utilisation < 1.1 * world.static_utilisation + Limits().deadband
    if world.mean_utilisation >= world.static_utilisation:
        assert len(world.late_flips) <= 900 / (2 * 10.0)


@given(st.floats(0.1, 60.0), st.integers(0, 10**6), st.integers(0, 40))
@slow
def test_no_pod_is_flipped_twice_within_a_cooldown_whatever_is_thrown_at_it(step_s, seed, lost):
    pods = fleet(encode=2, prefill=3, decode=3)
    limits = Limits(max_concurrent_flips=8, max_flips_per_cooldown=3)
    memory, flipped = None, {}
    for index in range(60):
        now_s = index * step_s
        wild = (seed * 2654435761 + index * 40503) % 97
        view = ClusterView(
            now_s,
            pods,
            demand(wild % 5, wild % 7, wild % 3, queue_ms=float(wild * 100)),
            limits=limits,
        )
        decision, memory = decide(view, None if index == lost else memory)
        for flip in decision.flips:
            assert now_s - flipped.get(flip.pod, -inf) >= limits.cooldown_s
            flipped[flip.pod] = now_s
        recent = sum(at_s > now_s - limits.cooldown_s for at_s in flipped.values())
        assert recent <= limits.max_flips_per_cooldown
        pods = enacted(view, decision)
