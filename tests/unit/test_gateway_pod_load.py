"""What a pod has to do: its own report, and what was placed on it since."""

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
    assert book.view.loads[D].service_ms == 100 + 0.3 * (200 - 100)
    book.report(Load(decode=StageLoad(finished_total=11, service_us_total=1_200_000)))
    assert book.view.loads[D].service_ms == 130


def test_tokens_of_a_piece_are_learnt_likewise():
    book = make_book()
    book.report(Load(decode=StageLoad(finished_total=2, service_us_total=1, tokens_total=40)))
    assert book.view.loads[D].tokens == 20
    book.report(Load(decode=StageLoad(finished_total=3, service_us_total=2, tokens_total=70)))
    assert book.view.loads[D].tokens == 20 + 0.3 * 10


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
