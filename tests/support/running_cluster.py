"""A cluster of real engines that `epd up` runs, and the commands beside it."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from epd.vocabulary import Role
from epd_cli.__main__ import main as epd
from epd_operator.local_state import RunningCluster, StateDirectory

ENGINE_ARGS = [
    "--max-model-len=4096",
    "--dtype=float32",
    "--enforce-eager",
    "--kv-cache-memory-bytes=67108864",
]
STOP_TIMEOUT_S = 60


def manifest(name: str, model: Path, **spec: Any) -> dict[str, Any]:
    """Return an EPDCluster of three real engines, changed by `spec`."""
    return {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": str(model), "servedName": name},
            "engine": {"type": "VLLM", "args": ENGINE_ARGS},
            "replicas": 3,
            "method": "E-P-D",
            "control": {"mode": "Off"},
            # No placement may depend on how fast this machine is.
            "slo": {"ttftMilliseconds": 60000, "tpotMilliseconds": 10000},
            **spec,
        },
    }


class Cluster:
    """One cluster, from `start` to `stop`."""

    def __init__(self, manifest: dict[str, Any], directory: Path) -> None:
        """Plan a cluster whose files lie in `directory`, an empty folder."""
        self.state = StateDirectory(directory / "state")
        self._manifest_file = directory / "cluster.yaml"
        self._manifest_file.write_text(yaml.safe_dump(manifest))
        self._output = directory / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return once it is ready."""
        command = [sys.executable, "-m", "epd_cli", "up", "-f", str(self._manifest_file)]
        command += ["--port", "0", "--state-dir", str(self.state.path)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        while " is ready after " not in (said := self._output.read_text()):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.1)
                pytest.fail(f"the cluster did not start:\n{said}")

    def stop(self) -> None:
        """End it, as Ctrl-C does."""
        self.interrupt()
        self.wait()

    def interrupt(self) -> None:
        """Do what Ctrl-C does, and do not wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended; it must end well."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        assert status == 0, self._output.read_text()

    @property
    def running(self) -> RunningCluster:
        """What `epd up` tells the other commands."""
        return self.state.read()

    @property
    def pods(self) -> list[str]:
        """The names of the pods."""
        return [pod.name for pod in self.running.pods]

    def client(self) -> openai.OpenAI:
        """Return the official client, which never tries twice."""
        url = f"{self.running.gateway_url}/v1"
        return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)

    def flip(self, pod: str, role: Role) -> None:
        """Change a pod's role, as `epd flip` does."""
        assert epd(["flip", pod, role, "--state-dir", str(self.state.path)]) == 0

    def timeline(self, response_id: str) -> list[dict[str, Any]]:
        """Return the stages of a request, as the gateway's admin route tells them."""
        url = f"{self.running.admin_url}/requests/{response_id}"
        stages: list[dict[str, Any]] = httpx.get(url).raise_for_status().json()["stages"]
        return stages
