"""What a pod has to do: its own report, and what was placed on it since."""

import pytest

from epd.policy.pods import PodView
from epd.vocabulary import Stage
from epd.wire.messages import Load, StageLoad
from epd_gateway.pod_load import LoadBook

P, D = Stage.PREFILL, Stage.DECODE


def make_book():
    return LoadBook(PodView("a"))


def outstanding(book, stage=P):
    return book.view.loads[stage].outstanding


def test_what_was_placed_counts_before_any_report():
    book = make_book()
    book.start(P)
    book.start(P)
    book.end(P)
    assert outstanding(book) == book.in_flight(P) == 1


def test_what_others_placed_is_known_from_reports():
    book = make_book()
    book.report(Load(prefill=StageLoad(waiting=3, running=2)))
    assert outstanding(book) == 5
    assert book.view.loads[P].waiting == 3


def test_what_was_placed_since_a_report_is_added_to_it():
    book = make_book()
    book.report(Load(prefill=StageLoad(running=2)))
    book.start(P)
    assert outstanding(book) == 3
    book.end(P)
    assert outstanding(book) == 2


def test_a_report_that_left_before_our_work_arrived_does_not_hide_it():
    book = make_book()
    book.start(P)
    book.start(P)
    book.report(Load())
    assert outstanding(book) == 2


def test_service_times_are_learnt_from_what_finished_between_reports():
    book = make_book()
    book.report(Load(decode=StageLoad(finished_total=10, service_us_total=1_000_000)))
    assert book.view.loads[D].service_ms == 100
    book.report(Load(decode=StageLoad(finished_total=11, service_us_total=1_200_000)))
    mean_ms = 100 + (200 - 100) / 11
    assert book.view.loads[D].service_ms == mean_ms
    book.report(Load(decode=StageLoad(finished_total=11, service_us_total=1_200_000)))
    assert book.view.loads[D].service_ms == mean_ms


def test_tokens_of_a_piece_are_learnt_likewise():
    book = make_book()
    book.report(Load(decode=StageLoad(finished_total=2, service_us_total=1, tokens_total=40)))
    assert book.view.loads[D].tokens == 20
    book.report(Load(decode=StageLoad(finished_total=3, service_us_total=2, tokens_total=70)))
    assert book.view.loads[D].tokens == pytest.approx(20 + 10 / 3)


def test_a_few_short_answers_do_not_make_a_pod_look_quick():
    """Beside a pod whose last answers were long it would be given most of what comes."""
    book = make_book()
    book.report(Load(decode=StageLoad(finished_total=1000, service_us_total=30_000_000_000)))
    for answers in range(1001, 1006):
        short_us = 30_000_000_000 + (answers - 1000) * 1_000_000
        book.report(Load(decode=StageLoad(finished_total=answers, service_us_total=short_us)))
    assert 29_800 < book.view.loads[D].service_ms < 30_000


def test_prompts_of_another_length_are_noticed_within_a_few_dozen():
    book = make_book()
    book.report(Load(prefill=StageLoad(finished_total=1000, service_us_total=30_000_000)))
    assert book.view.loads[P].service_ms == 30
    for prompts in range(1001, 1061):
        long_us = 30_000_000 + (prompts - 1000) * 200_000
        book.report(Load(prefill=StageLoad(finished_total=prompts, service_us_total=long_us)))
    assert book.view.loads[P].service_ms > 180


def test_a_new_process_starts_with_a_clean_sheet_but_for_our_calls():
    book = make_book()
    book.start(P)
    book.report(Load(prefill=StageLoad(running=9, finished_total=5, service_us_total=5000)))
    book.forget_reports()
    assert outstanding(book) == 1
    assert book.latest is None
    book.report(Load(prefill=StageLoad(finished_total=1, service_us_total=9000)))
    assert book.view.loads[P].service_ms > 0


def test_the_kv_cache_is_known():
    book = make_book()
    book.report(Load(kv_used_permille=700))
    assert book.view.kv_used_permille == 700
