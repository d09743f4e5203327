"""Arrow's lexicographic costs over gateways' views: residue first, then the queue, then the SLO."""

import pytest

from epd.policy.pods import Costs, PodView
from epd.vocabulary import Role, Stage
from epd_sim.lexicographic import Lexicographic

COSTS = Costs(encode_ms=20, prefill_ms=30, decode_ms=1000, ttft_ms=100, tpot_ms=50)
ARROW = Lexicographic()
SLO_FIRST = Lexicographic(slo_first=True)


def pod(name: str, role: Role, **outstanding: int) -> PodView:
    """Return a pod with so many pieces of work; its answers take 1 s for 100 tokens."""
    view = PodView(name, role.stages)
    for stage, count in outstanding.items():
        view.loads[Stage(stage)].outstanding = count
    view.loads[Stage.DECODE].service_ms, view.loads[Stage.DECODE].tokens = 1000, 100
    return view


def placed(ranking: Lexicographic, *pods: PodView) -> tuple[str, str]:
    """Return who prefills and who decodes."""
    pair = ranking.place_generation(pods, COSTS)
    assert pair is not None
    return pair.prefill.name, pair.decode.name


def test_a_pod_that_still_decodes_comes_after_a_clean_one_with_a_longer_queue() -> None:
    turning = pod("turning", Role.PREFILL, decode=1)
    clean, decode = pod("clean", Role.PREFILL, prefill=2), pod("d", Role.DECODE)
    assert placed(ARROW, turning, clean, decode) == ("clean", "d")
    assert placed(SLO_FIRST, turning, clean, decode) == ("clean", "d")


def test_arrow_takes_the_clean_one_even_where_only_the_other_meets_the_slo() -> None:
    turning = pod("turning", Role.PREFILL, decode=1)
    late = pod("late", Role.PREFILL, prefill=3)
    busy = pod("d", Role.DECODE, decode=90, prefill=9)
    assert placed(ARROW, turning, late, busy)[0] == "late"
    assert placed(SLO_FIRST, turning, late, busy)[0] == "turning"


def test_a_pod_that_still_prefills_decodes_last() -> None:
    turning, clean = pod("turning", Role.DECODE, prefill=1), pod("clean", Role.DECODE, decode=40)
    assert placed(ARROW, pod("p", Role.PREFILL), turning, clean)[1] == "clean"


@pytest.mark.parametrize(("answers", "prefill"), [(2, "d"), (300, "p")])
def test_one_request_goes_to_decode_while_decode_is_idle_and_its_answer_stays(
    answers: int, prefill: str
) -> None:
    """300 answers: 10 ms a step alone, 40 with them, more than half of the TPOT."""
    late, decode = pod("p", Role.PREFILL, prefill=4), pod("d", Role.DECODE, decode=answers)
    assert placed(ARROW, late, decode) == (prefill, "d")


def test_nothing_is_taken_from_decode_while_answers_wait() -> None:
    decode = pod("d", Role.DECODE, decode=1)
    decode.loads[Stage.DECODE].waiting = 1
    for ranking in (ARROW, SLO_FIRST):
        assert placed(ranking, pod("p", Role.PREFILL, prefill=4), decode)[0] == "p"


def test_encode_ranks_by_what_the_pod_still_generates() -> None:
    turning, clean = pod("turning", Role.ENCODE, prefill=1), pod("clean", Role.ENCODE, encode=3)
    choice = ARROW.place_encode([turning, clean], 7, COSTS)
    assert choice is not None
    assert (choice.pod.name, choice.overflow) == ("clean", False)


def test_without_a_healthy_pod_there_is_no_choice() -> None:
    gone = PodView("p", Role.PREFILL.stages, healthy=False)
    assert ARROW.place_generation([gone], COSTS) is None
    assert ARROW.place_encode([gone], 1, COSTS) is None
    assert ARROW.place_decode([gone], COSTS) is None
