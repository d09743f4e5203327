"""The list of metrics: names, types, units and labels keep to Prometheus' conventions."""

import re

import pytest
from prometheus_client import CollectorRegistry

from epd.telemetry import CLUSTER_LABELS, LABEL_VALUES, METRICS, MetricType, Unit, instrument
from epd.vocabulary import Component

OF_PROCESSES = {"version", "model", "engine"}  # each program says these once, of itself
NAMES = [metric.name for metric in METRICS]


def test_there_are_metrics_and_their_names_are_unique():
    assert len(NAMES) == len(set(NAMES)) > 20


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_a_name_has_the_prefix_and_the_suffix_of_its_type_and_unit(metric):
    assert re.fullmatch(r"epd_[a-z]+(_[a-z][a-z0-9]*)*", metric.name)
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    stem = metric.name.removesuffix("_total")
    if metric.unit not in (Unit.COUNT, Unit.RATIO):
        assert stem.endswith(f"_{metric.unit}")


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_help_is_one_sentence(metric):
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_buckets_belong_to_histograms_and_rise(metric):
    assert bool(metric.buckets) == (metric.type is MetricType.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_label_values_are_bounded(metric):
    own = OF_PROCESSES | ({"worker"} if metric.component is Component.WORKER else {"code"})
    if metric.component is Component.OPERATOR:
        own |= set(CLUSTER_LABELS)
    assert set(metric.labels) <= {*LABEL_VALUES, *own}


def test_all_can_be_registered_together():
    registry = CollectorRegistry()
    for metric in METRICS:
        instrument(metric, registry)
    names = {family.name for family in registry.collect()}
    assert names == {name.removesuffix("_total") for name in NAMES}
