"""Prompts go where one was prefilled that begins alike, as long as that costs no queue."""

from epd.policy.placement import place_generation
from epd.policy.pods import Costs, PodView, StageView
from epd.vocabulary import Role, Stage

COSTS = Costs(encode_ms=20, prefill_ms=30, decode_ms=1000, ec_handoff_ms=2, kv_handoff_ms=5)
P, D = Role.PREFILL, Role.DECODE


def pod(name, role, prefills=0):
    view = PodView(name, role.stages, "h")
    view.loads[Stage.PREFILL] = StageView(outstanding=prefills)
    return view


def test_a_prompt_goes_where_its_beginning_was_prefilled():
    pods = [pod(f"p{n}", P) for n in range(4)] + [pod("d", D)]
    for turn in range(8):
        pair = place_generation(pods, COSTS, turn=turn, prefix_at={"p2": 0.5})
        assert pair.prefill.name == "p2"


def test_a_known_beginning_is_worth_its_share_of_one_prefill_and_no_more():
    pods = [pod("a", P, prefills=1), pod("b", P), pod("d", D)]
    assert place_generation(pods, COSTS, prefix_at={"a": 0.9}).prefill.name == "b"
    pods[1].loads[Stage.PREFILL].outstanding = 1
    assert place_generation(pods, COSTS, prefix_at={"a": 0.9}).prefill.name == "a"


def test_a_known_beginning_on_a_pod_of_another_role_counts_for_nothing():
    pods = [pod("p", P), pod("d", D)]
    assert place_generation(pods, COSTS, prefix_at={"d": 1.0}).prefill.name == "p"
    assert place_generation(pods, COSTS, prefix_at={"gone": 1.0}).prefill.name == "p"


def test_a_known_beginning_is_found_in_a_fleet_too_large_to_look_at():
    pods = [pod(f"p{n}", P) for n in range(900)] + [pod(f"d{n}", D) for n in range(100)]
    for turn in range(0, 50, 7):
        pair = place_generation(pods, COSTS, turn=turn, prefix_at={"p613": 1.0})
        assert pair.prefill.name == "p613", turn
