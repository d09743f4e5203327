"""Tracing: what a traceparent is, and that it is off unless asked for."""

import subprocess
import sys

import pytest

from epd.tracing import start_tracing, trace_id_of, traceparent_of, valid_traceparent
from epd.vocabulary import Component

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
    name = traceparent_of(span)
    assert valid_traceparent(name) == name
    assert trace_id_of(name) == trace_id_of(GOOD)
    assert name != GOOD
    # Never ended, it is never sent: nothing is left to flush.
    tracing.close()
