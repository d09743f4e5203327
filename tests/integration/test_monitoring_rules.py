"""The rules, judged by Prometheus' own promtool: they parse, fire, keep silent and resolve."""

import shutil
import subprocess

import pytest
import yaml
from alert_cases import FAULTS, fault_test, healthy_test
from gen_monitoring import RULES
from kube import binaries
from monitoring.rules import ALERTS
from prometheus_client import CollectorRegistry, generate_latest

from epd.telemetry import METRICS, MetricType, instrument


@pytest.fixture(scope="module")
def promtool():
    try:
        return str(binaries.find("promtool")["promtool"])
    except binaries.UnavailableError as error:
        if installed := shutil.which("promtool"):
            return installed
        pytest.skip(str(error))


def ask(*command, given=None):
    """Run promtool; return what it says, and whether it is content."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=50)
    return done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_no_fault_in_the_rules(promtool):
    content, said = ask(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert content, said


def test_promtool_finds_no_fault_in_the_metrics(promtool):
    registry = CollectorRegistry()
    for metric in METRICS:
        series = instrument(metric, registry)
        one = series.labels(*("x" for _ in metric.labels)) if metric.labels else series
        if metric.type is MetricType.HISTOGRAM:
            one.observe(1)
    content, said = ask(promtool, "check", "metrics", given=generate_latest(registry).decode())
    assert content, said
    assert not said.strip()


def test_every_alert_has_a_fault_to_fire_it():
    assert list(FAULTS) == [alert.name for alert in ALERTS]


def test_every_alert_fires_on_its_fault_keeps_silent_in_health_and_resolves(promtool, tmp_path):
    tests = [healthy_test(), *(fault_test(name, fault) for name, fault in FAULTS.items())]
    file = tmp_path / "tests.yaml"
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(document))
    content, said = ask(promtool, "test", "rules", str(file))
    assert content, said


def test_an_alert_that_cannot_fire_is_found(promtool, tmp_path):
    quiet = tmp_path / "rules.yaml"
    quiet.write_text(RULES.read_text().replace(" == 0\n    for: 2m", " == -1\n    for: 2m"))
    assert quiet.read_text() != RULES.read_text()
    file = tmp_path / "tests.yaml"
    test = fault_test("EPDNoReadyPods", FAULTS["EPDNoReadyPods"])
    file.write_text(yaml.safe_dump({"rule_files": [str(quiet)], "tests": [test]}))
    assert not ask(promtool, "test", "rules", str(file))[0]
