"""Alerts fired by the faults they are for, in a cluster under traffic and a real Prometheus.

The rules are ours with one change: a minute is a second, so that nobody waits for half an hour.
"""

import re
from collections.abc import Iterator

import pytest
from gen_monitoring import RULES
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import MODEL, Watched, until, watched_cluster
from programs_of_prometheus import needs_prometheus

from epd.vocabulary import Role

# Every third handoff is lost, and every seventh decode fails.
CURVES = "time_scale: 1.0\nfailures: {handoff_every: 3, decode_every: 7}\n"

pytestmark = [pytest.mark.timeout(300), needs_prometheus]


def quickened(rules: str) -> str:
    """Return rules whose minutes are seconds; windows hold ten scrapes at least."""
    rules = re.sub(r"\b(\d+)h\b", lambda found: f"{int(found[1]) * 60}s", rules)
    return re.sub(r"\b(\d+)m\b", lambda found: f"{max(5, int(found[1]))}s", rules)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("alerts")
    rules = folder / "rules.yaml"
    rules.write_text(quickened(RULES.read_text()))
    # Nobody mends what the test breaks.
    spec = {"control": {"mode": "Off"}, "replicas": 4}
    with watched_cluster(folder, curves_text=CURVES, rules=rules, **spec) as watched:
        yield watched


@pytest.fixture(scope="module")
def traffic(watched: Watched) -> Iterator[Traffic]:
    mix = Mix(clients=6, pictures=1, tokens=10)
    with Traffic(watched.url, MODEL, mix) as traffic:
        yield traffic


def fires(watched: Watched, *alerts: str) -> None:
    until(lambda: watched.prometheus.alerts()["firing"] >= set(alerts))


def resolves(watched: Watched, *alerts: str) -> None:
    until(lambda: not watched.prometheus.alerts()["firing"] & set(alerts))


def test_handoffs_that_are_lost_and_stages_that_fail_are_told(
    watched: Watched, traffic: Traffic
) -> None:
    fires(watched, "EPDHandoffsFail", "EPDStagesFail")


def test_a_stage_that_lost_its_only_pod_is_told_and_is_well_again(
    watched: Watched, traffic: Traffic
) -> None:
    (encoder,) = (pod for pod in watched.roster.read().workers if pod.role is Role.ENCODE)
    watched.roster.flip(encoder.name, Role.DECODE)
    fires(watched, "EPDStageWithoutPod")
    watched.roster.flip(encoder.name, Role.ENCODE)
    resolves(watched, "EPDStageWithoutPod")


def test_a_gateway_that_loses_its_roster_is_told_and_is_well_again(
    watched: Watched, traffic: Traffic
) -> None:
    before = watched.roster.path.read_text()
    watched.roster.path.write_text("{")
    fires(watched, "EPDRosterStale")
    watched.roster.path.write_text(before)
    resolves(watched, "EPDRosterStale")


def test_an_operator_that_is_not_scraped_is_told(watched: Watched) -> None:
    assert "EPDOperatorAbsent" not in watched.prometheus.alerts()["firing"]
    watched.prometheus.set_targets([])
    fires(watched, "EPDOperatorAbsent")
