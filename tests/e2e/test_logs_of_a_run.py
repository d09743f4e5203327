"""All logs of a full run: each line is one object, and none holds what a client wrote."""

import base64
import io
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from running_cluster import Cluster

pytestmark = pytest.mark.timeout(300)
REQUEST_ID = "the-clients-own-id"
TRACE_ID = "a1" * 16


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("EPD_LOG_FORMAT", "json")
    monkeypatch.setenv("EPD_LOG_LEVEL", "debug")
    curves = tmp_path / "curves.yaml"
    curves.write_text("decode_step: {batch_ms: [[1, 40.0]]}\n")
    spec = {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": "logged"},
        "spec": {
            "model": {"source": "simulated", "servedName": "simulated"},
            "engine": {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}},
            "replicas": 4,
            "method": "E-P-D",
            "roles": [
                {"name": "Encode", "min": 1},
                {"name": "Prefill"},
                {"name": "Decode", "min": 2},
            ],
            "slo": {"ttftMilliseconds": 60000, "tpotMilliseconds": 10000},
            "control": {"mode": "Active", "intervalSeconds": 1},
        },
    }
    running = Cluster(spec, tmp_path)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def picture(note: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "PNG")
    plain = base64.b64encode(data.getvalue() + note.encode()).decode()
    return f"data:image/png;base64,{plain}"


class Client:
    """Somebody who puts secrets wherever a request has room for them."""

    def __init__(self, cluster: Cluster) -> None:
        self.url = cluster.running.gateway_url
        self.secrets: list[str] = []

    def secret(self) -> str:
        self.secrets.append(f"zq{secrets.token_hex(12)}")
        return self.secrets[-1]

    def headers(self) -> dict[str, str]:
        return {
            "authorization": f"Bearer {self.secret()}",
            "cookie": self.secret(),
            "x-request-id": REQUEST_ID,
            "traceparent": f"00-{TRACE_ID}-{'b2' * 8}-01",
        }

    def body(self, *parts: dict[str, Any], **changed: Any) -> dict[str, Any]:
        content = [{"type": "text", "text": self.secret()}, *parts]
        messages = [{"role": "user", "content": content}]
        return {"model": "simulated", "messages": messages, "max_tokens": 4, **changed}

    def post(self, body: Any, path: str = "/v1/chat/completions") -> int:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**self.headers(), "content-type": "application/json"}
        return httpx.post(
            f"{self.url}{path}", content=content, headers=headers, timeout=60
        ).status_code

    def image(self, url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}


def test_no_log_of_a_full_run_holds_what_a_client_wrote(cluster, tmp_path):
    client = Client(cluster)
    good = picture(client.secret())
    assert client.post(client.body(client.image(good), user=client.secret())) == 200
    assert client.post({"model": "simulated", "prompt": client.secret()}, "/v1/completions") == 200
    refused = [
        client.post(client.body(model=client.secret())),
        client.post(client.body(temperature=client.secret())),
        client.post(client.body(client.image(f"data:image/png;base64,{client.secret()}"))),
        client.post(client.body(client.image(f"http://127.0.0.1:1/{client.secret()}"))),
        client.post(f'{{"model": "{client.secret()}'.encode()),
        client.post({}, f"/v1/{client.secret()}?key={client.secret()}"),
    ]
    assert all(400 <= status < 500 for status in refused), refused
    lose_a_decode(cluster, client)
    logs = cluster.state.logs
    failed = messages(logs, "a stage failed")
    (lost,) = [line for line in failed if line["reason"] != "refused"]
    # A request's last line is written once its client has the whole answer.
    while lost["request"] not in {line["request"] for line in messages(logs, "answered")}:
        time.sleep(0.05)
    texts = {file.name: file.read_text() for file in logs.iterdir()}
    texts["up"] = (tmp_path / "up.log").read_text()
    assert {"gateway.log", *(f"{pod}.log" for pod in cluster.pods), "up"} <= set(texts)
    for name, text in texts.items():
        found = [secret for secret in client.secrets if secret in text]
        assert not found, (name, [line for line in text.splitlines() if found[0] in line])
    assert (lost["client_request"], lost["trace"], lost["stage"]) == (
        REQUEST_ID, TRACE_ID, "decode",
    )  # fmt: skip
    for line in messages(logs, "answered"):
        assert re.fullmatch(r"[0-9a-f]{32}", line["request"]), line
    for pod in cluster.pods:
        for line in texts[f"{pod}.log"].splitlines():
            assert {"time", "level", "logger", "message"} <= json.loads(line).keys()


def messages(logs: Path, message: str) -> list[dict[str, Any]]:
    """Return the gateway's whole lines that say `message`."""
    whole = (logs / "gateway.log").read_text().rpartition("\n")[0].splitlines()
    return [line for line in map(json.loads, whole) if line["message"] == message]


def lose_a_decode(cluster: Cluster, client: Client) -> None:
    """Kill the pod that decodes a stream in the middle; the stream must end well."""
    pids = {pod.name: pod.process_id for pod in cluster.running.pods}
    body = client.body(max_tokens=40)
    with openai.OpenAI(
        base_url=f"{client.url}/v1", api_key=client.secret(), max_retries=0, timeout=120
    ) as openai_client:
        stream = openai_client.chat.completions.create(
            **body, stream=True, extra_headers={**client.headers(), "authorization": "Bearer x"}
        )
        pieces = 0
        for chunk in stream:
            pieces += 1
            if pieces == 4:
                stages = cluster.timeline(chunk.id)
                os.kill(pids[stages[-1]["pod"]], signal.SIGKILL)
        assert pieces > 20
