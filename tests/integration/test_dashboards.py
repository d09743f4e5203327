"""Every query of every panel, asked of a real Prometheus that watches a cluster under traffic."""

import time
from collections.abc import Iterator

import pytest
from monitoring.boards import BOARDS
from monitoring.live.answers import complaint, filled
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import MODEL, Watched, until, watched_cluster
from programs_of_prometheus import needs_prometheus

PICTURES, WORDS = Mix(8, 3, 10), Mix(16, 0, 40)

pytestmark = [pytest.mark.timeout(300), needs_prometheus]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_cluster(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


def complaints(watched: Watched, since_s: float) -> list[str]:
    found = (
        complaint(watched.prometheus, panel, query, since_s)
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
    )
    return [each for each in found if each]


def test_no_panel_is_without_data_and_every_number_is_sane(watched: Watched) -> None:
    since_s = time.time()
    left: list[str] = ["not asked yet"]

    def is_whole(traffic: Traffic) -> bool:
        """Go from pictures to words and back until the loop has flipped and all has data."""
        traffic.mix = WORDS if traffic.mix is PICTURES else PICTURES
        traffic.be_rude()
        time.sleep(3)
        left[:] = complaints(watched, since_s)
        return not left

    with Traffic(watched.url, MODEL, PICTURES) as traffic:
        until(lambda: traffic.answered)
        try:
            until(lambda: is_whole(traffic))
        except TimeoutError:
            pytest.fail("\n".join(left))


def test_a_query_of_a_series_that_does_not_exist_is_found(watched: Watched) -> None:
    panel = BOARDS[0].panels[0]
    query = panel.queries[0]
    broken = type(query)(query.expr.replace("epd_slo", "epd_slow"), query.legend)
    assert complaint(watched.prometheus, panel, broken, time.time() - 5).endswith(": nothing")


def test_exemplars_lead_from_a_latency_to_a_trace(watched: Watched) -> None:
    found = watched.prometheus.ask(
        "query_exemplars",
        query="epd_time_to_first_token_seconds_bucket",
        start=time.time() - 600,
        end=time.time(),
    )
    labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
    assert labels
    assert all(len(each["trace_id"]) == 32 for each in labels)


def test_no_variable_of_grafana_is_left_in_a_query() -> None:
    for board in BOARDS:
        for panel in board.panels:
            assert not [query for query in panel.queries if "$" in filled(query.expr)]
