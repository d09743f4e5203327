"""The live snapshot: what it makes of the last requests."""

import json
import random

import pytest

from epd.vocabulary import Stage
from epd.wire.messages import Phase
from epd_gateway.journal import Journal, RequestRecord, StageRecord
from epd_gateway.live_snapshot import (
    MOST_REQUESTS,
    SHOWN_REQUESTS,
    LiveSnapshot,
    quantile,
    rates,
    read_decision,
    request_json,
    slo_json,
    stages_json,
)
from epd_gateway.roster import Roster
from epd_gateway.settings import Settings, Slo

SLO = Slo(ttft_ms=100, tpot_ms=10, attainment_percent=90)


def answered(number=0, ttft_s=0.05, gap_s=0.005, tokens=11, status=200, arrived_s=100.0):
    record = RequestRecord(f"r{number}", f"chatcmpl-{number}", "chat_completions", arrived_s, 1)
    record.first_token_s = arrived_s + ttft_s
    record.ended_s = record.first_token_s + gap_s * (tokens - 1)
    record.output_tokens = tokens
    record.status = status
    record.stages = [
        StageRecord(Stage.ENCODE, None, "e", arrived_s, ended_s=arrived_s + ttft_s / 2),
        StageRecord(
            Stage.PREFILL, Phase.PREFILL, "p", arrived_s + ttft_s / 2,
            ended_s=record.first_token_s, handoff_us=2000,
        ),
        StageRecord(
            Stage.DECODE, Phase.DECODE, "d", record.first_token_s, ended_s=record.ended_s,
            handoff_us=4000,
        ),
    ]  # fmt: skip
    return record


def pods():
    return [{"outstanding": {"encode": 0, "prefill": 1, "decode": 2}}] * 2


def test_the_objective_is_met_by_requests_that_keep_both_limits():
    records = [answered(), answered(ttft_s=0.2), answered(gap_s=0.02), answered(tokens=1)]
    told = slo_json(records, SLO)
    assert (told["requests"], told["attained_percent"]) == (4, 50.0)
    assert told["ttft_reached_ms"] == 200.0
    assert told["tpot_reached_ms"] == pytest.approx(20.0)


def test_a_request_that_failed_met_nothing_and_one_refused_says_nothing():
    failed, refused, left = answered(status=503), answered(status=400), answered(status=499)
    told = slo_json([answered(), failed, refused, left], SLO)
    assert (told["requests"], told["attained_percent"]) == (2, 50.0)


def test_without_requests_nothing_is_claimed():
    told = slo_json([], SLO)
    assert told["attained_percent"] is told["ttft_reached_ms"] is told["tpot_reached_ms"] is None
    for entry in stages_json([], pods(), SLO):
        assert entry["p90_ms"] is entry["of_slo_percent"] is None


def test_encode_and_prefill_are_held_against_ttft_and_decode_against_tpot():
    encode, prefill, decode = stages_json([answered() for _ in range(9)], pods(), SLO)
    assert (encode["count"], encode["p50_ms"], encode["of_slo_percent"]) == (9, 25.0, 25)
    assert (prefill["handoff_p90_ms"], prefill["outstanding"]) == (2.0, 2)
    assert (decode["per_token_p90_ms"], decode["of_slo_percent"]) == (pytest.approx(5.0), 50)


def test_failures_and_overflows_are_counted_by_stage():
    record = answered()
    record.stages[2].failure = "disconnected"
    record.stages[1].overflow = True
    _, prefill, decode = stages_json([record], pods(), SLO)
    assert (prefill["overflowed"], decode["failed"], decode["count"]) == (1, 1, 0)
    assert rates([record], 101.0)["retried"] == 1


def test_a_call_for_two_stages_counts_in_both():
    record = answered()
    record.stages = [
        StageRecord(
            Stage.PREFILL, Phase.WHOLE, "a", 100.0, decode_started_s=100.05, ended_s=100.1
        )
    ]  # fmt: skip
    _, prefill, decode = stages_json([record], pods(), SLO)
    assert (prefill["count"], decode["count"]) == (1, 1)
    assert [hop["stage"] for hop in request_json(record, 101.0)["hops"]] == ["prefill", "decode"]


def test_a_request_under_way_shows_where_it_is():
    record = answered()
    record.ended_s, record.status = None, 0
    record.stages[2].ended_s = None
    told = request_json(record, 107.0)
    assert (told["status"], told["age_s"]) == (None, 7.0)
    assert [(hop["pod"], hop["running"]) for hop in told["hops"]] == [
        ("e", False), ("p", False), ("d", True),
    ]  # fmt: skip


def test_a_quantile_is_a_value_that_was_seen():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    values = [round(chance.uniform(0, 99), 3) for _ in range(chance.randrange(1, 50))]
    for share in (0.01, 0.5, 0.9, 1.0):
        found = quantile(values, share)
        assert found in values
        assert sum(value <= found for value in values) >= share * len(values)
    assert quantile([], 0.9) is None


async def test_a_snapshot_covers_the_last_requests_and_is_shared_for_a_while():
    roster, journal, now_s = Roster(Settings()), Journal(), [200.0]
    live = LiveSnapshot(roster, journal, SLO, clock=lambda: now_s[0])
    try:
        for number in range(MOST_REQUESTS + 50):
            journal.add(answered(number, arrived_s=190.0))
        first = live.get()
        assert first["slo"]["requests"] == MOST_REQUESTS
        assert len(first["requests"]) == SHOWN_REQUESTS
        assert first["requests"][0]["id"] == f"chatcmpl-{MOST_REQUESTS + 49}"
        assert live.get() is first
        now_s[0] = 300.0
        assert live.get()["slo"]["requests"] == 0
        json.dumps(live.get())
    finally:
        await roster.close()


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "\xff"])
def test_a_decision_that_cannot_be_read_is_none(tmp_path, text):
    file = tmp_path / "control.json"
    assert read_decision(file) is None
    file.write_text(text, encoding="latin-1")
    assert read_decision(file) is None
    assert read_decision(None) is None
