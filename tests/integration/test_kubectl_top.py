"""`kubectl epd top` over a kubectl that a script plays: what it asks for, and what it leaves."""

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from epd_cli import kubectl_epd

CLUSTER = {
    "metadata": {"name": "demo", "namespace": "ns", "uid": "u"},
    "spec": {"control": {"mode": "Active"}},
    "status": {
        "roles": [{"name": "Decode", "desired": 3, "ready": 3}],
        "lastDecision": {
            "time": "2026-01-01T10:20:30Z", "reason": "Cooldown", "message": "Demand a; Slo b",
        },
    },
}  # fmt: skip
SNAPSHOT = {
    "time": 1_767_262_830.0, "cluster": "demo", "models": ["tiny"], "method": None,
    "roster_version": 7, "roster_current": True, "ready": True, "missing_stages": [],
    "in_flight": 0, "window_s": 60.0, "requests_per_s": 0, "output_tokens_per_s": 0, "failed": 0,
    "retried": 0, "stages": [], "pods": [], "requests": [], "flips": [], "control": None,
    "slo": {
        "ttft_ms": 1000.0, "tpot_ms": 50.0, "attainment_percent": 90.0, "requests": 0,
        "attained_percent": None, "ttft_reached_ms": None, "tpot_reached_ms": None,
    },
}  # fmt: skip
SCRIPT = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$*" in
  *port-forward*) echo $$ > {folder}/forward; {forward} ;;
  *"get pods"*) cat {folder}/pods ;;
  *"get events"*) echo '{{"items": []}}' ;;
  *) cat {folder}/cluster ;;
esac
"""


def gateway(ready: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": "demo-gateway-x", "creationTimestamp": "2026"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.fixture
def admin() -> Iterator[int]:
    """Give the port of a gateway's admin routes."""

    class Admin(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/snapshot"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(SNAPSHOT).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Admin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes a kubectl; `forward` is what it does for a port-forward."""

    def make(forward: str, ready: str = "True") -> Path:
        (tmp_path / "cluster").write_text(json.dumps(CLUSTER))
        (tmp_path / "pods").write_text(json.dumps({"items": [gateway(ready)]}))
        script = tmp_path / "kubectl"
        script.write_text(SCRIPT.format(folder=tmp_path, forward=forward))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path

    return make


def test_it_shows_the_gateways_snapshot_with_the_operators_decision(play, admin, capsys):
    folder = play(f"echo 'Forwarding from 127.0.0.1:{admin} -> 8001'; exec sleep 600")
    assert kubectl_epd.main(["top", "demo", "--once", "-n", "ns"]) == 0
    text = capsys.readouterr().out
    assert "demo: tiny  roster 7" in text
    assert "10:20:30 Active: Cooldown; wants Decode 3" in text
    asked = (folder / "asked").read_text()
    assert "port-forward pod/demo-gateway-x :8001 --namespace ns" in asked
    assert "app.kubernetes.io/component=gateway" in asked
    assert not psutil.pid_exists(int((folder / "forward").read_text())), "the forward is left"


def test_a_forward_that_fails_is_told_in_a_line(play, capsys):
    play("echo 'error: pods is forbidden' >&2; exit 1")
    assert kubectl_epd.main(["top", "demo", "--once", "-n", "ns"]) == 1
    complaint = capsys.readouterr().err
    said = "cannot reach pod/demo-gateway-x: error: pods is forbidden"
    assert complaint == f"kubectl epd top: {said}\n"


def test_without_a_ready_gateway_nothing_is_forwarded(play, capsys):
    folder = play("exit 1", ready="False")
    assert kubectl_epd.main(["top", "demo", "--once", "-n", "ns"]) == 1
    assert "no gateway of demo is ready" in capsys.readouterr().err
    assert "port-forward" not in (folder / "asked").read_text()
