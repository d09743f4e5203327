"""Tracing: what a traceparent is, and that it is off unless asked for."""

import random
import subprocess
import sys

import pytest
from kept_spans import KeptSpans, readable
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision

from epd.tracing import start_tracing, trace_id_of, valid_traceparent
from epd.tracing.spans import bound_of
from epd.vocabulary import Component

SEED = 20261122
GOOD = f"00-{'a1' * 16}-{'b2' * 8}-01"
BAD = [
    "", "00", GOOD[:-1], GOOD + "0", GOOD.upper(), f"ff{GOOD[2:]}", GOOD.replace("-", "_"),
    f"00-{'0' * 32}-{'b2' * 8}-01", f"00-{'a1' * 16}-{'0' * 16}-01", f"{GOOD}\n", f" {GOOD}",
]  # fmt: skip


def test_a_traceparent_of_w3c_is_taken_as_it_is():
    assert valid_traceparent(GOOD) == GOOD
    assert trace_id_of(GOOD) == "a1" * 16


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_none(text):
    assert valid_traceparent(text) == ""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_it_is_off_unless_a_collector_is_named(environment):
    assert start_tracing(Component.GATEWAY, "g", environment) is None


def test_a_program_that_makes_no_spans_never_loads_opentelemetry():
    script = (
        "import sys, epd_gateway.server, epd_worker.service, epd.tracing\n"
        "from epd.vocabulary import Component\n"
        "assert epd.tracing.start_tracing(Component.GATEWAY, 'g', {}) is None\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_a_child_span_is_named_by_its_own_id_and_its_parents_trace():
    tracing = start_tracing(
        Component.WORKER, "w", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    )
    assert tracing is not None
    span = tracing.begin("serve", GOOD, attributes={"epd.stage": "decode"})
    name = span.traceparent
    assert valid_traceparent(name) == name
    assert trace_id_of(name) == trace_id_of(GOOD)
    assert name != GOOD
    # Never ended, it is never sent: nothing is left to flush.
    tracing.close()


ATTRIBUTES = {
    "text": "straße", "empty": "", "long": "x" * 20_000, "yes": True, "no": False, "zero": 0,
    "one": 1, "many": 2**40, "below": -3, "half": 0.5, "none": 0.0, "whole": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("failure", [None, "", "handoff_lost", "y" * 300])
@pytest.mark.parametrize("parent", ["", GOOD])
@pytest.mark.parametrize("attributes", [{}, ATTRIBUTES], ids=["bare", "full"])
def test_a_span_is_written_as_opentelemetry_writes_it(attributes, parent, failure):
    from epd.tracing.otlp import message_of

    kept = KeptSpans()
    tracing = kept.tracing()
    root = tracing.begin("the request", parent, outward=False, attributes=attributes)
    inner = tracing.begin("a call", root, outward=True, start_ns=2**60)
    inner.set_attributes(attributes)
    if failure is not None:
        inner.fail(failure)
    inner.end()
    root.end()
    spans = (inner, root)
    (group,) = encode_spans([readable(span) for span in spans]).resource_spans
    theirs = list(group.scope_spans[0].spans)
    ours = list(map(message_of, spans))
    for span in theirs:
        if span.status.code == 0:
            span.ClearField("status")  # said, but with nothing in it
    assert ours == theirs


def test_a_span_of_a_trace_that_nobody_keeps_is_not_sent():
    kept = KeptSpans()
    root = kept.tracing().begin("the request", f"{GOOD[:-2]}00")
    root.end()
    assert root.traceparent.endswith("-00")
    assert kept.get_finished_spans() == ()


SAMPLERS = ["always_on", "always_off", "traceidratio", "parentbased_always_on",
            "parentbased_always_off", "parentbased_traceidratio"]  # fmt: skip


@pytest.mark.parametrize("ratio", ["0.1", "0.000001", "1", "0"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trace_that_begins_here_is_kept_as_opentelemetrys_sampler_says(monkeypatch, name, ratio):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    sampler = TracerProvider().sampler
    assert bound_of(sampler.get_description()) is not None
    tracing = KeptSpans().tracing()
    rng = random.Random(SEED)
    edge = round(float(ratio) * (1 << 64))
    for lower in (0, max(0, edge - 1), min(edge, (1 << 64) - 1), *map(rng.getrandbits, [64] * 50)):
        trace_id = (rng.getrandbits(64) << 64) + lower
        theirs = sampler.should_sample(None, trace_id, "x").decision is Decision.RECORD_AND_SAMPLE
        assert tracing.keeps(f"{trace_id:032x}") is theirs, f"seed {SEED}: {trace_id:032x}"


def test_a_sampler_that_nobody_knows_is_asked():
    assert bound_of("JaegerRemoteSampler{}") is None
