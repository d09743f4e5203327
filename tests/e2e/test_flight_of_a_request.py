"""One trace of a request across three pods with real engines: vLLM's own spans are in it."""

import base64
import io
import secrets
from collections.abc import Callable

import pytest
from monitoring.live.watched import until
from otlp_receiver import Receiver
from PIL import Image
from running_cluster import Cluster

from epd.vocabulary import Role
from epd_worker.engine.tiny_models import TinyKind

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]
VLLM_SPAN = "llm_request"


def picture() -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def test_vllms_own_span_of_each_stage_is_below_ours(
    vllm_cluster: Callable[[TinyKind], Cluster], collector: Receiver
) -> None:
    cluster = vllm_cluster(TinyKind.QWEN3_VL)
    for pod, role in zip(cluster.pods, (Role.ENCODE, Role.PREFILL, Role.DECODE), strict=True):
        cluster.flip(pod, role)
    trace_id, client_span = secrets.token_hex(16), secrets.token_hex(8)
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": picture()}},
    ]
    with cluster.client() as client:
        client.chat.completions.create(
            model=cluster.running.model,
            messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
            max_tokens=4,
            extra_headers={"traceparent": f"00-{trace_id}-{client_span}-01"},
        )
        # A request that nobody traces leaves nothing, not of vLLM's either.
        client.chat.completions.create(
            model=cluster.running.model,
            messages=[{"role": "user", "content": "and this?"}],
            max_tokens=4,
        )
    until(lambda: sum(span.name == VLLM_SPAN for span in collector.of(trace_id)) == 3)
    spans = collector.of(trace_id)
    ours = {span.span_id: span for span in spans if span.name.startswith("serve ")}
    theirs = [span for span in spans if span.name == VLLM_SPAN]
    stages = {ours[span.parent_id].name: span for span in theirs}
    assert stages.keys() == {"serve encode", "serve prefill", "serve decode"}
    for name, span in stages.items():
        around = next(each for each in ours.values() if each.name == name)
        assert span.service == "vllm"
        assert span.instance == around.instance
    assert all(span.trace_id == trace_id for span in collector.spans if span.name == VLLM_SPAN)
