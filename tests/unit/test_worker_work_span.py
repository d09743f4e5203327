"""The spans of a worker: its work, and the handoffs that the work took."""

import pytest
from kept_spans import KeptSpans

from epd.wire.messages import Api, EcHandle, Encode, Generate, Image, KvHandle, Phase, Submit
from epd_worker.work_span import WorkSpan

PARENT = f"00-{'a1' * 16}-{'b2' * 8}-01"
EC = EcHandle("giver-e", "hash", "i1", size_bytes=10)
KV = KvHandle("giver-p", "hash", "k1", size_bytes=20)


def spans_of(work, handoff_us=1500, failure=""):
    """Return the spans of a piece of work, the last to end last."""
    exporter = KeptSpans()
    submit = Submit(1, "request-1", work, traceparent=PARENT)
    WorkSpan(exporter.tracing(), submit).end(handoff_us, failure)
    return list(exporter.get_finished_spans())


def generate(phase, *images, kv=None):
    return Generate(phase, Api.CHAT_COMPLETIONS, b"a prompt", images=images, kv=kv)


@pytest.mark.parametrize(
    ("work", "names"),
    [
        (Encode(Image(b"pixels")), ["serve encode"]),
        (generate(Phase.WHOLE, Image(b"pixels")), ["serve prefill+decode"]),
        (generate(Phase.PREFILL, Image(ec=EC)), ["ec handoff", "serve prefill"]),
        (generate(Phase.PREFILL, Image(ec=EC, local=True)), ["serve prefill"]),
        (generate(Phase.DECODE, Image(ec=EC), kv=KV), ["kv handoff", "serve decode"]),
        (generate(Phase.DECODE), ["serve decode"]),
    ],
)
def test_work_and_what_it_took_from_others_are_spans(work, names):
    spans = spans_of(work)
    assert [span.name for span in spans] == names
    *handoffs, served = spans
    assert f"{served.parent.span_id:016x}" == "b2" * 8
    for handoff in handoffs:
        assert handoff.parent.span_id == served.context.span_id
        assert handoff.end_time - handoff.start_time == 1_500_000
        assert handoff.attributes["epd.handoff.from"] in ("giver-e", "giver-p")


def test_work_that_failed_says_how_and_nothing_of_the_request():
    (span,) = spans_of(generate(Phase.DECODE), failure="handoff_lost")
    assert span.status.description == "handoff_lost"
    assert "a prompt" not in span.to_json()
