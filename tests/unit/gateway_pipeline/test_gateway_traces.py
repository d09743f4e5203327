"""The spans of requests: one for each call, whatever becomes of it, and none that nobody wants."""

import pytest
from fake_cluster import until
from fake_workers import DIE, Fault, text_of
from kept_spans import KeptSpans

from epd.vocabulary import Role
from epd.wire.messages import Phase
from epd_gateway import server

E, P, D, EPD = Role.ENCODE, Role.PREFILL, Role.DECODE, Role.ENCODE_PREFILL_DECODE
TRACE_ID, CLIENT_SPAN = "a1" * 16, "b2" * 8
SAMPLED = f"00-{TRACE_ID}-{CLIENT_SPAN}-01"


@pytest.fixture
def exporter(monkeypatch):
    """Return where the gateway's spans go."""
    kept = KeptSpans()
    monkeypatch.setattr(server, "start_tracing", lambda *_: kept.tracing())
    return kept


async def ask(cluster, traceparent="", **fields):
    """Send a chat; return its answer, once it is whole."""
    headers = {"traceparent": traceparent} if traceparent else {}
    return await cluster.client.post(
        "/v1/chat/completions", json=cluster.body(**fields), headers=headers
    )


async def spans_of(exporter):
    """Return the spans by name, once the request's own has ended; it ends last."""
    await until(lambda: any(s.name == "chat_completions" for s in exporter.get_finished_spans()))
    found: dict[str, list] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


async def test_each_call_is_a_span_that_its_worker_is_told_of(make_cluster, picture, exporter):
    cluster = await make_cluster(e=E, p=P, d=D)
    answer = await ask(cluster, SAMPLED, images=[picture(1)])
    assert answer.status_code == 200
    spans = await spans_of(exporter)
    (root,) = spans["chat_completions"]
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (
        TRACE_ID, CLIENT_SPAN,
    )  # fmt: skip
    for name, stage in (("e", "encode"), ("p", "prefill"), ("d", "decode")):
        (span,), (submit,) = spans[stage], cluster.workers[name].submits
        assert span.parent.span_id == root.context.span_id
        assert submit.traceparent == f"00-{TRACE_ID}-{span.context.span_id:016x}-01"


async def test_a_replay_is_a_second_span_and_the_first_one_failed(make_cluster, exporter):
    cluster = await make_cluster(p=P, d1=D, d2=D)
    cluster.plan(Fault(Phase.DECODE, DIE, 2))
    answer = await ask(cluster, SAMPLED, stream=True)
    assert answer.status_code == 200
    lost, went_on = (await spans_of(exporter))["decode"]
    assert (lost.status.description, lost.attributes["epd.replay"]) == ("disconnected", False)
    assert went_on.status.is_ok or went_on.status.is_unset
    assert went_on.attributes["epd.replay"] is True
    assert went_on.attributes["epd.attempt"] == 2
    assert went_on.attributes["epd.pod"] != lost.attributes["epd.pod"]


async def test_a_stage_at_another_role_is_marked_as_overflow(make_cluster, exporter):
    cluster = await make_cluster(p=P)
    assert (await ask(cluster)).status_code == 200
    (span,) = (await spans_of(exporter))["prefill+decode"]
    assert span.attributes["epd.overflow"] is True


async def test_a_refused_request_ends_every_span(make_cluster, picture, exporter):
    cluster = await make_cluster(e1=E, e2=E, p=P, d=D)
    for worker in cluster.workers.values():
        await worker.die()
    await until(lambda: not any(cluster.view(name).healthy for name in cluster.workers))
    answer = await ask(cluster, images=[picture(1), picture(2)])
    assert answer.status_code == 503
    (root,) = (await spans_of(exporter))["chat_completions"]
    assert root.status.description == "503"


async def test_without_a_clients_trace_the_responses_id_is_the_traces(make_cluster, exporter):
    cluster = await make_cluster(a=EPD)
    answer = await ask(cluster)
    (root,) = (await spans_of(exporter))["chat_completions"]
    assert answer.json()["id"] == f"chatcmpl-{root.context.trace_id:032x}"


async def test_what_is_not_sampled_makes_no_spans_and_workers_hear_so(make_cluster, exporter):
    cluster = await make_cluster(a=EPD)
    await ask(cluster, f"{SAMPLED[:-2]}00")
    (submit,) = cluster.workers["a"].submits
    assert submit.traceparent[3:35] == TRACE_ID
    assert submit.traceparent.endswith("-00")
    assert exporter.get_finished_spans() == ()


async def test_with_traces_off_a_clients_trace_is_passed_on_and_nothing_else(make_cluster):
    cluster = await make_cluster(a=EPD)
    for header in (SAMPLED, "", "00-nonsense", f"{SAMPLED}-x"):
        answer = await ask(cluster, header)
        assert answer.json()["choices"][0]["message"]["content"] == text_of(5)
    told = [submit.traceparent for submit in cluster.workers["a"].submits]
    assert told == [SAMPLED, "", "", ""]
