"""What the control loop reads: the PromQL of its signals, and the same answers from scrapes."""

import math

import pytest

from epd import telemetry
from epd.vocabulary import Stage
from epd_operator.control.ports import MetricsUnavailable
from epd_operator.control.scrape import ScrapedMetrics
from epd_operator.control.signals import SIGNALS, Query, quantile, traffic_of

GATEWAY = "http://gateway/metrics"


def test_a_counter_is_asked_for_as_a_rate_by_its_labels():
    text = SIGNALS["started"].promql({"namespace": "a"}, 20)
    assert text == (
        'sum by (worker, stage) (rate(epd_worker_started_total{namespace="a"}[20000ms]))'
    )


def test_a_gauge_is_asked_for_as_it_is():
    assert Query(telemetry.CONNECTIONS).promql({}, 20) == "sum(epd_http_connections{})"


def test_label_values_are_quoted():
    text = Query(telemetry.CONNECTIONS).promql({"cluster": 'a"b\\c'}, 20)
    assert text == 'sum(epd_http_connections{cluster="a\\"b\\\\c"})'


def test_every_signal_is_of_a_metric_in_the_list_and_keeps_only_labels_that_it_has():
    for query in SIGNALS.values():
        assert query.metric in telemetry.METRICS
        assert {*query.by, *query.where} - {"le"} <= set(query.metric.labels)


@pytest.mark.parametrize(
    ("share", "found"), [(0.0, 0.0), (0.25, 5.0), (0.5, 10.0), (0.75, 20.0), (0.95, 20.0)]
)
def test_a_quantile_lies_on_the_line_between_its_buckets(share, found):
    assert quantile([(10.0, 2.0), (20.0, 3.0), (math.inf, 4.0)], share) == found


def test_without_observations_there_is_no_quantile():
    assert quantile([], 0.5) is None
    assert quantile([(10.0, 0.0), (math.inf, 0.0)], 0.5) is None


def test_signals_without_series_count_as_nothing():
    traffic = traffic_of({}, window_s=10, age_s=0, workers=frozenset())
    assert traffic.started == dict.fromkeys(Stage, 0.0)
    assert traffic.images == 0
    assert traffic.answered == {}


class Programs:
    """Metrics that a test writes, read at times that it chooses."""

    def __init__(self):
        self.now_s = 100.0
        self.texts = {GATEWAY: ""}
        self.workers = {}
        self.metrics = ScrapedMetrics(
            lambda: [GATEWAY],
            lambda: self.workers,
            10.0,
            fetch=self.fetch,
            clock=lambda: self.now_s,
        )

    async def fetch(self, url):
        if url not in self.texts:
            raise OSError("refused")
        return self.texts[url]

    def worker(self, name, started):
        self.workers[name] = f"http://{name}/metrics"
        self.texts[self.workers[name]] = (
            f'epd_worker_started_total{{worker="{name}",stage="prefill"}} {started}\n'
            f'epd_worker_waiting{{worker="{name}",stage="prefill"}} 3\n'
        )

    async def read_after(self, seconds):
        self.now_s += seconds
        return await self.metrics.read()


@pytest.fixture
async def programs():
    programs = Programs()
    programs.worker("w", 10)
    with pytest.raises(MetricsUnavailable, match="only begun"):
        await programs.metrics.read()
    return programs


async def test_a_rate_is_the_increase_over_the_window(programs):
    programs.worker("w", 30)
    traffic = await programs.read_after(4)
    assert traffic.started[Stage.PREFILL] == pytest.approx(5.0)
    assert traffic.waiting["w", Stage.PREFILL] == 3
    assert traffic.workers == {"w"}
    for total in (40, 50, 60):
        programs.worker("w", total)
        traffic = await programs.read_after(5)
    assert traffic.started[Stage.PREFILL] == pytest.approx(2.0)
    assert traffic.window_s == 10


async def test_a_counter_that_was_reset_goes_on_from_nothing(programs):
    programs.worker("w", 20)
    await programs.read_after(2)
    programs.worker("w", 6)
    traffic = await programs.read_after(2)
    assert traffic.started[Stage.PREFILL] == pytest.approx((10 + 6) / 4)


async def test_a_worker_that_does_not_answer_does_not_report(programs):
    programs.worker("x", 1)
    del programs.texts["http://w/metrics"]
    assert (await programs.read_after(1)).workers == {"x"}


async def test_without_its_gateway_there_are_no_metrics(programs):
    del programs.texts[GATEWAY]
    with pytest.raises(MetricsUnavailable, match="gateway/metrics does not answer"):
        await programs.read_after(1)
