"""Who is woken: a webhook behind a real Alertmanager, which Prometheus tells of alerts.

Debian's package `prometheus-alertmanager` has one. Where none is installed, Prometheus itself tells
the webhook, by Alertmanager's API: then what Alertmanager would do with alerts is not seen.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from epd_operator import local_ports

HOST = "127.0.0.1"
PROGRAMS = ("alertmanager", "prometheus-alertmanager")
PATIENCE_S = 60.0


def alertmanager_program() -> str | None:
    """Return the Alertmanager of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Pager:
    """Alerts as they were told.

    Attributes:
        address: HOST:PORT of whom Prometheus must tell.
        by_alertmanager: Whether that is a real Alertmanager.
    """

    def __init__(self) -> None:
        self.address = ""
        self.by_alertmanager = False
        self._state: dict[tuple[tuple[str, str], ...], bool] = {}
        self._lock = threading.Lock()

    @property
    def firing(self) -> set[str]:
        """The names of the alerts that were told to fire, and not yet to be over."""
        with self._lock:
            return {dict(labels)["alertname"] for labels, fires in self._state.items() if fires}

    def labels(self, alert: str) -> list[dict[str, str]]:
        """Return the labels of an alert, of each time it was told."""
        with self._lock:
            return [dict(each) for each in self._state if dict(each)["alertname"] == alert]

    def take(self, told: list[dict[str, Any]]) -> None:
        """Take note of alerts: those of Alertmanager say their status, those of Prometheus end."""
        now_s = time.time()
        with self._lock:
            for alert in told:
                status = alert.get("status")
                fires = status == "firing" if status else _end_s(alert) > now_s
                self._state[tuple(sorted(alert["labels"].items()))] = fires


def _end_s(alert: dict[str, Any]) -> float:
    return datetime.fromisoformat(alert["endsAt"]).timestamp()


@contextmanager
def pager(folder: Path) -> Iterator[Pager]:
    """Run one, with an Alertmanager before it where there is one; files go into a folder."""
    noted = Pager()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            noted.take(body if isinstance(body, list) else body["alerts"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    noted.address = f"{HOST}:{server.server_port}"
    try:
        program = alertmanager_program()
        if program is None:
            yield noted
        else:
            with _alertmanager(program, folder, noted.address) as address:
                noted.address, noted.by_alertmanager = address, True
                yield noted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _alertmanager(program: str, folder: Path, webhook: str) -> Iterator[str]:
    """Run a real Alertmanager that tells a webhook of each alert at once; give its HOST:PORT."""
    folder.mkdir()
    config = {
        "route": {
            "receiver": "webhook",
            "group_by": ["..."],
            "group_wait": "100ms",
            "group_interval": "500ms",
            "repeat_interval": "1h",
        },
        "receivers": [
            {
                "name": "webhook",
                "webhook_configs": [{"url": f"http://{webhook}/", "send_resolved": True}],
            }
        ],
    }
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))
    port = local_ports.free_block(1, HOST)
    with (folder / "alertmanager.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'alertmanager.yaml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address={HOST}:{port}",
                "--cluster.listen-address=",  # it is alone
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _until_ready(f"http://{HOST}:{port}/-/ready", process, folder)
        yield f"{HOST}:{port}"
    finally:
        process.kill()
        process.wait()
        local_ports.release(port, 1)


def _until_ready(url: str, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        said = (folder / "alertmanager.log").read_text()
        assert process.poll() is None, said
        assert time.monotonic() < deadline_s, said
        time.sleep(0.05)
