"""What the demo concludes from what it saw: a lost token, stream, flip or process is told."""

import pytest

from epd.vocabulary import Role, Stage
from epd_cli.demo_flips import FlipRecord
from epd_cli.demo_images import draw, image_part
from epd_cli.demo_result import Result
from epd_cli.demo_streams import Answer, Ask, Slot, long_chats, plain_chats, probe
from epd_cli.timeline import StageCall, call_of, summary
from epd_operator.local_state import LocalPod


def answer(text: str = "one two", error: str = "", reason: str | None = "length") -> Answer:
    return Answer("id", text, reason, len(text.split()), 1.0, 2.0, error)


def slot(*answers: Answer) -> Slot:
    return Slot(Ask("?"), answer(), list(answers))


def flip(gained: int = 1, lost: int = 0, *errors: str) -> FlipRecord:
    return FlipRecord(
        at_s=1.0,
        pod="demo-0",
        before=Role.ENCODE,
        after=Role.DECODE,
        took_ms=3.0,
        streams=8,
        gained={Stage.DECODE: gained},
        lost={Stage.ENCODE: lost},
        errors=list(errors),
    )


def pods(*process_ids: int | None) -> list[LocalPod]:
    return [
        LocalPod(name=f"demo-{index}", role=Role.ENCODE, process_id=process_id)
        for index, process_id in enumerate(process_ids)
    ]


def faults(
    slots: list[Slot], flips: list[FlipRecord], after: list[LocalPod], *, exact: bool = True
) -> list[str]:
    return Result(slots, flips, pods(10, 11), after).faults(exact=exact)


def test_nothing_lost_is_no_fault() -> None:
    assert faults([slot(answer(), answer())], [flip()], pods(10, 11)) == []


@pytest.mark.parametrize(
    "changed",
    [answer("one"), answer("one  two"), answer("one two three"), answer(reason="stop")],
    ids=["a token is missing", "the text differs", "a token too many", "it ended otherwise"],
)
def test_a_stream_that_differs_is_a_fault_where_answers_are_exact(changed: Answer) -> None:
    slots = [slot(answer(), changed)]
    assert faults(slots, [flip()], pods(10, 11)) == ["1 of 2 streams differ from their reference"]
    assert faults(slots, [flip()], pods(10, 11), exact=False) == []


def test_an_error_of_a_stream_is_a_fault_and_no_difference() -> None:
    broken = slot(answer("one", "the stream ended before the answer did"))
    assert broken.different == 0
    assert faults([broken], [], pods(10, 11)) == ["error: the stream ended before the answer did"]


def test_an_error_of_a_probe_is_a_fault() -> None:
    assert faults([], [flip(1, 0, "502")], pods(10, 11)) == ["error: 502"]


def test_a_flip_that_only_changed_a_label_is_a_fault() -> None:
    assert faults([], [flip(gained=0)], pods(10, 11)) == [
        "no work of its new role reached demo-0 after it became decode"
    ]


@pytest.mark.parametrize("after", [pods(10, 12), pods(10, None), pods(10)])
def test_another_process_is_a_fault(after: list[LocalPod]) -> None:
    (fault,) = faults([], [], after)
    assert fault.startswith("demo-1 is another process: 11 before,")


def test_a_flip_is_told_with_what_the_pod_began_since() -> None:
    assert str(flip(3, 1)) == (
        "  1.0 s  demo-0: encode → decode in 3 ms while 8 streams run; "
        "work it began since: decode +3, encode +1"
    )


def test_chats_of_a_text_model_hold_no_pictures() -> None:
    asks = [*plain_chats(False), *long_chats(8, False, 9), probe(1, False)]
    assert not any(ask.pictures for ask in asks)


def test_chats_are_greedy_and_all_different() -> None:
    asks = [*plain_chats(True), *long_chats(8, True, 9), *(probe(n, True) for n in range(9))]
    bodies = [ask.body("tiny") for ask in asks]
    assert {body["temperature"] for body in bodies} == {0}
    assert len({str(body["messages"]) for body in bodies}) == len(bodies)


def test_a_drawing_is_the_same_for_a_seed_and_another_for_another() -> None:
    urls = [image_part(draw(seed))["image_url"]["url"] for seed in (1, 1, 2)]
    assert urls[0] == urls[1] != urls[2]
    assert urls[0].startswith("data:image/png;base64,")


def test_the_gateways_record_of_a_stage_is_read() -> None:
    entry = {"stage": "decode", "pod": "demo-2", "duration_ms": 12.5, "failure": None, "more": 1}
    assert call_of(entry) == StageCall(Stage.DECODE, "demo-2", 12.5)


def test_stages_are_summed_up_by_pod() -> None:
    calls = [
        StageCall(Stage.ENCODE, "a", 1.4),
        StageCall(Stage.ENCODE, "b", 2.0),
        StageCall(Stage.ENCODE, "a", 3.0),
        StageCall(Stage.PREFILL, "b", 5.0, failure="deadline"),
        StageCall(Stage.PREFILL, "a", None),
    ]
    assert summary(calls, Stage.ENCODE) == "a 1 ms + 3 ms, b 2 ms"
    assert summary(calls, Stage.PREFILL) == "b failed (deadline), a …"
    assert summary(calls, Stage.DECODE) == "-"
