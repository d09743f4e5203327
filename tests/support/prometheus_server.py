"""A real Prometheus that scrapes what a test names; skipped where there is none."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from kube import binaries

SCRAPE_INTERVAL_S = 0.5
START_TIMEOUT_S = 60


class PrometheusServer:
    """One server with one job per group of targets."""

    def __init__(self, folder: Path, jobs: Mapping[str, Sequence[str]]) -> None:
        """Scrape HOST:PORTs by job name; the series carry `cluster="test"`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._targets = folder / "targets.json"
        self.set_targets(jobs)
        config = {
            "global": {"scrape_interval": f"{SCRAPE_INTERVAL_S * 1e3:.0f}ms"},
            "scrape_configs": [
                {"job_name": "epd", "file_sd_configs": [{"files": [str(self._targets)]}]}
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                _program(),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def set_targets(self, jobs: Mapping[str, Sequence[str]]) -> None:
        """Scrape these from now on."""
        groups = [
            {"targets": list(targets), "labels": {"job": job, "cluster": "test"}}
            for job, targets in jobs.items()
        ]
        self._targets.write_text(json.dumps(groups))

    def until_ready(self) -> None:
        """Wait until it answers queries."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, "prometheus ended"
            assert time.monotonic() < deadline_s, "prometheus does not get ready"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._log.close()


@contextmanager
def prometheus(folder: Path, jobs: Mapping[str, Sequence[str]]) -> Iterator[PrometheusServer]:
    """Run a server for as long as the block lasts."""
    folder.mkdir(exist_ok=True)
    server = PrometheusServer(folder, jobs)
    try:
        server.until_ready()
        yield server
    finally:
        server.stop()


def _program() -> str:
    try:
        return str(binaries.find("prometheus")["prometheus"])
    except binaries.UnavailableError as error:
        if installed := shutil.which("prometheus"):
            return installed
        pytest.skip(str(error))
