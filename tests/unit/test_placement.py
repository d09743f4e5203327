"""Which pod takes which stage: every rule of `epd.policy.placement`, one at a time."""

from dataclasses import replace

import pytest

from epd.policy.placement import (
    home_of,
    place_decode,
    place_encode,
    place_generation,
    place_whole,
)
from epd.policy.pods import Costs, PodView, StageView, wait_ms
from epd.vocabulary import Role, Stage

COSTS = Costs(encode_ms=20, prefill_ms=30, decode_ms=1000, ec_handoff_ms=2, kv_handoff_ms=5)
E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
EP, ED, PD, EPD = (
    Role.ENCODE_PREFILL,
    Role.ENCODE_DECODE,
    Role.PREFILL_DECODE,
    Role.ENCODE_PREFILL_DECODE,
)


def pod(name, role, group="h", **loads):
    view = PodView(name, role.stages, group)
    for stage, outstanding in loads.items():
        view.loads[Stage(stage)] = StageView(outstanding=outstanding)
    return view


def names(pair):
    return pair.prefill.name, pair.decode.name


# --- predicted waits ------------------------------------------------------------------------------


def test_an_idle_pod_has_no_wait():
    assert wait_ms(pod("a", EPD), Stage.PREFILL, COSTS) == 0


def test_a_queue_waits_for_each_piece_in_it():
    assert wait_ms(pod("a", P, prefill=3), Stage.PREFILL, COSTS) == 90


def test_measured_service_times_replace_the_defaults():
    view = pod("a", P)
    view.loads[Stage.PREFILL] = StageView(outstanding=2, service_ms=100)
    assert wait_ms(view, Stage.PREFILL, COSTS) == 200


def test_other_stages_of_a_pod_count_by_their_share():
    view = pod("a", EPD, encode=1, prefill=1, decode=1)
    assert wait_ms(view, Stage.ENCODE, COSTS) == 20 + 0.5 * 30 + 0.01 * 20
    assert wait_ms(view, Stage.PREFILL, COSTS) == 0.5 * 20 + 30 + 0.01 * 30
    assert wait_ms(view, Stage.DECODE, COSTS) == 0.5 * 20 + 0.5 * 30 + 0.01 * 1000


def test_a_prompt_is_held_up_by_how_many_answers_run_not_by_how_long_they_are():
    short, long = pod("a", D), pod("b", D)
    short.loads[Stage.DECODE] = StageView(outstanding=10, service_ms=500)
    long.loads[Stage.DECODE] = StageView(outstanding=10, service_ms=60_000)
    waits = [wait_ms(view, Stage.PREFILL, COSTS) for view in (short, long)]
    assert waits == [0.01 * 10 * 30] * 2


def test_answers_that_wait_for_room_wait_for_others_to_end():
    view = pod("a", D)
    view.loads[Stage.DECODE] = StageView(outstanding=12, waiting=2)
    crowd_ms = 0.01 * 12 * 1000
    assert wait_ms(view, Stage.DECODE, COSTS) == crowd_ms + 3 * 1000 / 10


def test_a_full_kv_cache_makes_a_new_answer_wait():
    view = pod("a", D, decode=10)
    before_ms = wait_ms(view, Stage.DECODE, COSTS)
    view.kv_used_permille = 960
    assert wait_ms(view, Stage.DECODE, COSTS) == before_ms + 1000 / 10


# --- encode ---------------------------------------------------------------------------------------


def test_an_image_goes_home():
    pods = [pod(f"e{n}", E) for n in range(5)]
    for key in range(50):
        assert place_encode(pods, key, COSTS, turn=key).pod is home_of(key, pods)


def test_an_image_leaves_a_home_that_is_busier_by_more_than_one_encode():
    pods = [pod("e1", E), pod("e2", E)]
    home = home_of(7, pods)
    other = next(view for view in pods if view is not home)
    home.loads[Stage.ENCODE].outstanding = 1
    assert place_encode(pods, 7, COSTS).pod is home
    home.loads[Stage.ENCODE].outstanding = 2
    assert place_encode(pods, 7, COSTS).pod is other


def test_images_keep_their_home_when_another_pod_leaves():
    pods = [pod(f"e{n}", E) for n in range(6)]
    homes = {key: home_of(key, pods) for key in range(100)}
    for key, home in homes.items():
        if home is not pods[3]:
            assert home_of(key, pods[:3] + pods[4:]) is home


def test_homes_are_spread():
    pods = [pod(f"e{n}", E) for n in range(4)]
    keys = [(n * 0x9E3779B97F4A7C15) % 2**64 for n in range(4000)]
    counts = [sum(home_of(key, pods) is view for key in keys) for view in pods]
    assert min(counts) > 700


def test_encode_overflows_where_no_pod_is_offered_it():
    choice = place_encode([pod("p", P), pod("d", D)], 1, COSTS)
    assert choice.overflow


def test_encode_stays_within_the_hash_it_must_fit():
    pods = [pod("e1", E, "h1"), pod("e2", E, "h2")]
    assert place_encode(pods, 1, COSTS, compatibility_hash="h2").pod.name == "e2"


# --- prefill and decode ---------------------------------------------------------------------------


def test_each_stage_goes_to_its_role():
    pair = place_generation([pod("e", E), pod("p", P), pod("d", D)], COSTS)
    assert names(pair) == ("p", "d")
    assert pair.overflow == ()


def test_one_pod_for_both_saves_the_handoff():
    pair = place_generation([pod("a", EPD), pod("b", EPD)], COSTS)
    assert pair.prefill is pair.decode


def test_a_handoff_is_worth_it_once_the_waits_differ_by_more():
    # One answer more costs 10 ms in decode, and a prefill ahead 30 ms.
    pods = [pod("busy", PD, decode=30), pod("free", D)]
    assert names(place_generation(pods, COSTS)) == ("busy", "free")


@pytest.mark.parametrize(("turn", "first"), [(0, "a"), (1, "b"), (2, "c"), (3, "a")])
def test_equal_pods_take_turns(turn, first):
    pods = [pod(name, EPD) for name in "abc"]
    assert place_generation(pods, COSTS, turn=turn).prefill.name == first


def test_the_least_busy_decode_pod_is_taken_whatever_the_turn():
    pods = [pod("p", P), pod("d1", D, decode=4), pod("d2", D, decode=3), pod("d3", D, decode=5)]
    for turn in range(5):
        assert place_generation(pods, COSTS, turn=turn).decode.name == "d2"


def test_only_equal_hashes_are_paired():
    pods = [pod("p1", P, "h1"), pod("d2", D, "h2", decode=0), pod("d1", D, "h1", decode=50)]
    assert names(place_generation(pods, COSTS)) == ("p1", "d1")


def test_a_group_that_has_both_roles_goes_before_one_that_must_overflow():
    pods = [pod("p1", P, "h1"), pod("p2", P, "h2", prefill=9), pod("d2", D, "h2", decode=9)]
    assert names(place_generation(pods, COSTS)) == ("p2", "d2")


def test_a_missing_role_overflows_to_another_pod():
    pair = place_generation([pod("e", E), pod("p", P)], COSTS)
    assert pair.decode.name in {"e", "p"}
    assert pair.overflow == (Stage.DECODE,)


def test_unhealthy_pods_are_never_taken():
    pods = [pod("p", P), pod("d", D)]
    for view in pods:
        view.healthy = False
    assert place_generation(pods, COSTS) is None
    assert place_whole(pods, COSTS) is None
    assert place_decode(pods, COSTS) is None
    assert place_encode(pods, 1, COSTS) is None


def test_without_pods_there_is_no_choice():
    assert place_generation([], COSTS) is None


def test_suspect_pods_come_after_overflow():
    suspect = pod("d1", D)
    suspect.suspect = True
    pair = place_generation([pod("p", P), suspect], COSTS)
    assert (pair.decode.name, pair.overflow) == ("p", (Stage.DECODE,))
    assert place_generation([suspect], COSTS).decode is suspect


def test_pods_that_failed_come_last():
    pods = [pod("p1", P), pod("p2", P, prefill=50), pod("d", D)]
    assert place_generation(pods, COSTS, avoid=["p1"]).prefill.name == "p2"
    assert place_generation([pods[0], pods[2]], COSTS, avoid=["p1"]).prefill.name == "d"
    alone = [pod("a", EPD)]
    assert place_generation(alone, COSTS, avoid=["a"]).prefill.name == "a"


def test_prefill_goes_where_the_embeddings_are_when_waits_are_equal():
    pods = [pod("ep1", EP), pod("ep2", EP), pod("d", D)]
    for turn in range(3):
        pair = place_generation(pods, COSTS, turn=turn, embeddings_at={"ep2"})
        assert pair.prefill.name == "ep2"


# --- encode beside prefill ------------------------------------------------------------------------


def test_a_pod_for_encode_and_prefill_encodes_itself():
    pair = place_generation([pod("ep", EP), pod("d", D)], COSTS, images=1)
    assert pair.fused_encode


def test_many_images_are_spread_over_encode_pods_instead():
    pods = [pod("ep", EP), pod("e", E), pod("d", D)]
    assert place_generation(pods, COSTS, images=1).fused_encode
    assert not place_generation(pods, COSTS, images=2).fused_encode


def test_a_pod_for_prefill_alone_does_not_encode_while_others_may():
    pods = [pod("e", E, encode=9), pod("p", P), pod("d", D)]
    assert not place_generation(pods, COSTS, images=1).fused_encode


def test_where_nobody_is_offered_encode_the_prefill_pod_does_it():
    pair = place_generation([pod("p", P), pod("d", D)], COSTS, images=1)
    assert pair.fused_encode
    assert Stage.ENCODE in pair.overflow


# --- requests that cannot be split ----------------------------------------------------------------


def test_a_whole_request_prefers_a_pod_offered_both_stages():
    pods = [pod("p", P), pod("d", D), pod("pd", PD, decode=50)]
    assert place_whole(pods, COSTS).pod.name == "pd"


def test_a_whole_request_goes_to_a_decode_pod_otherwise():
    choice = place_whole([pod("e", E), pod("p", P), pod("d", D)], COSTS)
    assert (choice.pod.name, choice.overflow) == ("d", False)


def test_a_decode_alone_goes_to_the_least_busy_pod_that_is_offered_it():
    pods = [pod("e", E), pod("d1", D, decode=3), pod("pd", PD, decode=2), pod("d3", D, decode=4)]
    choice = place_decode(pods, COSTS)
    assert (choice.pod.name, choice.wait_ms, choice.overflow) == ("pd", 20, False)
    assert place_decode(pods, COSTS, avoid=["pd"]).pod.name == "d1"


def test_a_decode_alone_fits_its_kv_cache_and_overflows_only_where_nobody_is_offered_it():
    pods = [pod("e", E), pod("d", D, group="other")]
    choice = place_decode(pods, COSTS, compatibility_hash="h")
    assert (choice.pod.name, choice.overflow) == ("e", True)
    assert place_decode(pods, COSTS, compatibility_hash="other").pod.name == "d"


def test_a_suspect_pod_for_both_stages_gives_way_to_a_decode_pod():
    both = pod("pd", PD)
    both.suspect = True
    assert place_whole([both, pod("d", D)], COSTS).pod.name == "d"


# --- overflow by prediction -----------------------------------------------------------------------

TIMED = Costs(encode_ms=20, prefill_ms=30, decode_ms=1000, kv_handoff_ms=5, ttft_ms=100)


def test_prefill_overflows_where_its_pods_would_miss_the_ttft_and_another_would_not():
    # Three prompts ahead and one's own: 120 ms of 100.
    pods = [pod("p", P, prefill=3), pod("d1", D, decode=4), pod("d2", D, decode=2)]
    pair = place_generation(pods, TIMED)
    assert pair.prefill.name == "d2"
    assert pair.overflow == (Stage.PREFILL,)


def test_prefill_stays_where_its_pods_meet_the_ttft():
    pair = place_generation([pod("p", P, prefill=2), pod("d", D)], TIMED)
    assert pair.prefill.name == "p"
    assert pair.overflow == ()


def test_prefill_stays_where_nobody_meets_the_ttft():
    pair = place_generation([pod("p", P, prefill=9), pod("d", D, prefill=4)], TIMED)
    assert pair.prefill.name == "p"
    assert pair.overflow == ()


def test_prefill_never_overflows_to_a_pod_where_answers_wait_for_room():
    pods = [pod("p", P, prefill=9), pod("d", D, decode=3)]
    pods[1].loads[Stage.DECODE].waiting = 1
    assert place_generation(pods, TIMED).prefill.name == "p"
    pods[1].loads[Stage.DECODE].waiting = 0
    pods[1].kv_used_permille = 960
    assert place_generation(pods, TIMED).prefill.name == "p"


def test_prefill_never_overflows_to_pods_that_failed_it_or_are_suspect_or_of_another_hash():
    pods = [pod("p", P, prefill=9), pod("d", D), pod("e", E), pod("x", E, "other")]
    pods[2].suspect = True
    assert place_generation(pods, TIMED, avoid=["d"]).prefill.name == "p"


def test_encode_overflows_where_its_pods_would_miss_the_ttft():
    pods = [pod("e", E, encode=5), pod("p", P, prefill=1), pod("d", D, decode=1)]
    choice = place_encode(pods, 1, TIMED)
    assert choice.pod.name == "d"
    assert choice.overflow


def test_without_an_slo_nothing_overflows_by_prediction():
    pods = [pod("p", P, prefill=900), pod("d", D)]
    assert place_generation(pods, COSTS).prefill.name == "p"


def test_a_large_fleet_is_sampled_at_another_place_for_each_request():
    pods = [pod(f"p{n}", PD) for n in range(1000)]
    firsts = {place_generation(pods, COSTS, turn=turn).prefill.name for turn in range(100)}
    assert len(firsts) == 100


def test_a_rare_role_of_a_large_fleet_is_found_even_outside_the_sample():
    pods = [pod(f"d{n}", D) for n in range(999)] + [pod("p", P)]
    for turn in range(10):
        pair = place_generation(pods, COSTS, turn=turn)
        assert pair.prefill.name == "p"
        assert pair.overflow == ()


def test_images_of_a_large_fleet_are_not_fused_for_want_of_an_encode_pod_in_the_sample():
    pods = [pod(f"x{n}", PD) for n in range(999)] + [pod("e", E)]
    assert not any(
        place_generation(pods, COSTS, turn=turn, images=1).fused_encode for turn in range(10)
    )


def answering(name, outstanding, tokens, service_ms):
    """Return a decode pod with so many answers of a mean length and duration."""
    busy = pod(name, D, decode=outstanding)
    busy.loads[Stage.DECODE].tokens = tokens
    busy.loads[Stage.DECODE].service_ms = service_ms
    return busy


@pytest.mark.parametrize(
    ("tokens", "service_ms"),
    [(60, 1200), (0, 0)],
    ids=["decoded when answers were short", "never decoded"],
)
def test_answers_go_where_fewest_run_whatever_each_pod_decoded_before(tokens, service_ms):
    """The next answer is as long on one pod as on another; both take 20 ms a token."""
    prefills, usual = pod("p", P), answering("usual", 10, 1200, 24_000)
    for outstanding, expected in ((9, "other"), (11, "usual")):
        other = answering("other", outstanding, tokens, service_ms)
        assert place_decode([usual, other], COSTS).pod.name == expected
        assert place_generation([prefills, usual, other], COSTS).decode.name == expected


def test_a_pod_that_is_slow_at_every_token_gets_fewer_answers():
    pods = [answering("slow", 6, 60, 2400), answering("quick", 10, 1200, 24_000)]
    assert place_decode(pods, COSTS).pod.name == "quick"


@pytest.mark.parametrize(
    ("outstanding", "tokens", "service_ms", "overflows"),
    [
        (2, 500, 20_000, True),  # 5 s to spare each: 30 ms more are nothing
        (8, 10, 400, False),  # 100 ms to spare: one in thirty is too short for it, and eight run
        (2, 500, 25_001, False),  # too slow as it is
        (2, 0, 0, False),  # nobody knows
        (0, 0, 0, True),  # nobody minds
    ],
)
def test_prefill_overflows_only_where_it_costs_next_to_no_answer_its_tpot(
    outstanding, tokens, service_ms, overflows
):
    objective = replace(TIMED, ttft_ms=1000, tpot_ms=50)
    pods = [pod("p", P, prefill=40), answering("d", outstanding, tokens, service_ms)]
    pair = place_generation(pods, objective)
    assert (pair.prefill.name == "d") is overflows


def test_the_work_that_overflows_is_as_large_as_where_it_comes_from():
    """A decode pod has never prefilled: its own mean says nothing."""
    prefills = pod("p", P, prefill=9)
    prefills.loads[Stage.PREFILL].service_ms = 3000
    pods = [prefills, answering("d", 2, 500, 20_000)]
    objective = replace(TIMED, ttft_ms=20_000, tpot_ms=50)
    assert place_generation(pods, objective).prefill.name == "p"
    assert place_generation(pods, replace(objective, tpot_ms=500)).prefill.name == "d"
