"""The journal: which split a request had, and what is kept of the last ones."""

import pytest

from epd.vocabulary import Method, Stage
from epd.wire.messages import Phase
from epd_gateway.journal import Journal, RequestRecord, StageRecord

E, P, D = Stage.ENCODE, Stage.PREFILL, Stage.DECODE


def record(*stages, request_id="r", response_id="chatcmpl-1"):
    made = RequestRecord(request_id, response_id, "chat_completions", 100.0, 1)
    for stage, phase, worker, *failure in stages:
        made.stages.append(
            StageRecord(stage, phase, worker, 100.0, ended_s=100.5, failure="".join(failure))
        )
    return made


@pytest.mark.parametrize(
    ("stages", "method"),
    [
        ([(P, Phase.WHOLE, "a")], Method.EPD),
        ([(P, Phase.PREFILL, "a"), (D, Phase.DECODE, "b")], Method.EP_D),
        ([(E, None, "a"), (P, Phase.WHOLE, "a")], Method.EPD),
        ([(E, None, "e"), (P, Phase.WHOLE, "a")], Method.E_P_D),
        ([(E, None, "a"), (P, Phase.PREFILL, "a"), (D, Phase.DECODE, "b")], Method.EP_D),
        ([(E, None, "b"), (P, Phase.PREFILL, "a"), (D, Phase.DECODE, "b")], Method.ED_P),
        ([(E, None, "e"), (P, Phase.PREFILL, "a"), (D, Phase.DECODE, "b")], Method.E_P_D),
        (
            [(E, None, "a"), (E, None, "b"), (P, Phase.PREFILL, "a"), (D, Phase.DECODE, "b")],
            Method.E_P_D,
        ),
        ([(P, Phase.WHOLE, "a", "disconnected"), (D, Phase.DECODE, "b")], Method.EPD),
        (
            [(P, Phase.PREFILL, "a"), (D, Phase.DECODE, "b", "deadline"), (D, Phase.DECODE, "c")],
            Method.EP_D,
        ),
        ([(E, None, "e")], None),
        ([(P, Phase.PREFILL, "a", "overloaded")], None),
    ],
)
def test_the_split_is_told_by_the_pods_that_succeeded(stages, method):
    assert record(*stages).method is method


def test_a_call_for_both_stages_gives_two_entries():
    made = record((P, Phase.WHOLE, "a"))
    made.stages[0].decode_started_s = 100.2
    prefill, decode = made.to_json()["stages"]
    assert (prefill["stage"], prefill["duration_ms"]) == ("prefill", 200.0)
    assert (decode["stage"], decode["started_ms"], decode["duration_ms"]) == (
        "decode", 200.0, 300.0,
    )  # fmt: skip


def test_a_stage_under_way_has_no_duration():
    made = record((P, Phase.PREFILL, "a"))
    made.stages[0].ended_s = None
    assert made.to_json()["stages"][0]["duration_ms"] is None


def test_requests_are_found_by_either_id():
    journal = Journal()
    made = record()
    journal.add(made)
    assert journal.find("r") is journal.find("chatcmpl-1") is made
    assert journal.find("other") is None


def test_the_oldest_requests_are_forgotten():
    journal = Journal(capacity=2)
    records = [record(request_id=f"r{n}", response_id=f"c{n}") for n in range(3)]
    for made in records:
        journal.add(made)
    assert journal.find("c0") is None
    assert journal.find("r0") is None
    assert journal.find("r1") is records[1]


def test_a_request_id_used_again_means_the_last_request():
    journal = Journal(capacity=2)
    for n in range(3):
        journal.add(record(request_id="same", response_id=f"c{n}"))
    assert journal.find("same").response_id == "c2"
    assert journal.find("c1").response_id == "c1"
