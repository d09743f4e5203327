"""What holds for every fleet."""

from hypothesis import given
from hypothesis import strategies as st

from epd.policy.placement import home_of, place_encode, place_generation, place_whole
from epd.policy.pods import Costs, PodView, StageView, wait_ms
from epd.vocabulary import Role, Stage

COSTS = Costs(max_considered=8)

stage_views = st.builds(
    StageView,
    outstanding=st.integers(0, 50),
    waiting=st.integers(0, 50),
    service_ms=st.floats(0, 5000),
)


@st.composite
def pods(draw, min_size=0):
    size = draw(st.integers(min_size, 12))
    return [
        PodView(
            f"pod-{index}",
            draw(st.sampled_from(Role)).stages,
            draw(st.sampled_from(["h1", "h2"])),
            draw(st.booleans()),
            draw(st.booleans()),
            draw(st.integers(0, 1000)),
            {stage: draw(stage_views) for stage in Stage},
        )
        for index in range(size)
    ]


avoided = st.sets(st.sampled_from([f"pod-{index}" for index in range(12)]))
turns = st.integers(0, 10**9)


@given(pods(), turns, avoided, st.integers(0, 3))
def test_a_pair_is_healthy_and_of_one_hash(fleet, turn, avoid, images):
    pair = place_generation(fleet, COSTS, turn=turn, avoid=avoid, images=images)
    if pair is None:
        assert not any(pod.healthy for pod in fleet)
        return
    assert pair.prefill.healthy
    assert pair.decode.healthy
    assert pair.prefill.compatibility_hash == pair.decode.compatibility_hash
    assert (Stage.DECODE in pair.overflow) == (Stage.DECODE not in pair.decode.stages)
    assert (Stage.PREFILL in pair.overflow) == (Stage.PREFILL not in pair.prefill.stages)
    assert images or not pair.fused_encode


@given(pods(), turns, avoided)
def test_overflow_happens_only_where_no_trusted_pod_of_the_role_is_left(fleet, turn, avoid):
    choice = place_encode(fleet, turn, COSTS, turn=turn, avoid=avoid)
    if choice is not None and choice.overflow:
        assert not any(
            pod.healthy and not pod.suspect and pod.name not in avoid and Stage.ENCODE in pod.stages
            for pod in fleet
        )


@given(pods(min_size=1), turns, avoided, st.integers(0, 3))
def test_the_same_fleet_and_turn_give_the_same_choice(fleet, turn, avoid, images):
    first = place_generation(fleet, COSTS, turn=turn, avoid=avoid, images=images)
    assert first == place_generation(fleet, COSTS, turn=turn, avoid=avoid, images=images)
    assert place_whole(fleet, COSTS, turn=turn) == place_whole(fleet, COSTS, turn=turn)


@given(pods(min_size=1), turns)
def test_no_pair_of_the_candidates_is_cheaper(fleet, turn):
    for pod in fleet:
        pod.healthy, pod.suspect, pod.compatibility_hash = True, False, "h"
    wide = Costs(max_considered=100)
    pair = place_generation(fleet, wide, turn=turn)
    prefills = [pod for pod in fleet if Stage.PREFILL in pod.stages] or fleet
    decodes = [pod for pod in fleet if Stage.DECODE in pod.stages] or fleet
    cheapest_ms = min(
        wait_ms(prefill, Stage.PREFILL, wide)
        + wait_ms(decode, Stage.DECODE, wide)
        + (0 if prefill is decode else wide.kv_handoff_ms)
        for prefill in prefills
        for decode in decodes
    )
    # The pair of two pods is made of the best of each stage; where that is one and the same pod,
    # the pod with itself is cheaper by the handoff at least.
    assert pair.cost_ms <= cheapest_ms + 1e-6


@given(pods(min_size=1), turns, st.sampled_from(Stage))
def test_more_work_never_means_a_shorter_wait(fleet, turn, stage):
    pod = fleet[0]
    before_ms = wait_ms(pod, stage, COSTS)
    pod.loads[stage].outstanding += 1 + turn % 5
    assert wait_ms(pod, stage, COSTS) >= before_ms or pod.loads[stage].waiting


@given(pods(min_size=2), st.integers(0, 2**64 - 1))
def test_an_image_moves_only_when_its_home_goes(fleet, key):
    home = home_of(key, fleet)
    for gone in fleet:
        if gone is not home:
            assert home_of(key, [pod for pod in fleet if pod is not gone]) is home
