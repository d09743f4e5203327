"""Lines of the HTTP front about a request: they carry the id that all programs know it by."""

import logging

from epd.vocabulary import Role
from epd_gateway.pipeline import Pipeline

EPD = Role.ENCODE_PREFILL_DECODE
TRACEPARENT = f"00-{'a1' * 16}-{'b2' * 8}-01"


async def test_a_defect_is_logged_with_the_requests_ids(make_cluster, monkeypatch, caplog):
    async def breaks(self, context):
        raise KeyError("secret")

    monkeypatch.setattr(Pipeline, "serve", breaks)
    cluster = await make_cluster(a=EPD)
    with caplog.at_level(logging.ERROR):
        answer = await cluster.client.post(
            "/v1/chat/completions",
            json=cluster.body(),
            headers={"x-request-id": "mine-7", "traceparent": TRACEPARENT},
        )
    assert answer.status_code == 500
    (line,) = (vars(record) for record in caplog.records if record.levelno == logging.ERROR)
    assert line["client_request"] == "mine-7"
    assert line["trace"] == "a1" * 16
    assert len(line["request"]) == 32
