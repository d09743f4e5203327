"""Where documented commands are run: clusters of `epd up`, and Kubernetes with played nodes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from documented_commands import ROOT, Command
from kube import binaries
from kube.fake_nodes import FakeNodes
from PIL import Image

LIMIT_S = 180
TRIES = 5
CLUSTER = "simulated"
CERTIFICATE = ROOT / "tests" / "support" / "certificates"
# What a reader has beside the checkout, by the names that pages use.
MINE = {"chat.crt": CERTIFICATE / "gateway.pem", "chat.key": CERTIFICATE / "gateway.key"}


class CommandFailedError(AssertionError):
    """A command that a page tells to type does not work; the text says which, and what it said."""


class Desk:
    """A folder that looks like the checkout, and the environment that a reader has there."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """Lay it out."""
        self.folder = folder
        for path in ROOT.iterdir():
            if path.name in ("charts", "docs", "examples", "crds", "Makefile", "hack"):
                (folder / path.name).symlink_to(path)
        for name, source in MINE.items():
            shutil.copy(source, folder / name)
        Image.new("RGB", (96, 64), "teal").save(folder / "photo.png")
        programs = Path(sys.executable).parent
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "HOME": str(folder),
            "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
            **environment,
        }

    def run(self, command: Command, *, text: str = "", **environment: str) -> str:
        """Run a command to its end and return what it printed, errors last.

        Raises:
            CommandFailedError: It did not end well, or found nothing.
        """
        script = (text or command.text).replace(".venv/bin/", "").replace("CLUSTER", CLUSTER)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        said = f"{command}\n{done.stdout}{done.stderr}"
        # Nothing may have happened here so far that an event would tell of.
        is_empty = "No resources found" in done.stderr and " get events " not in command.key
        if done.returncode != 0 or is_empty:
            raise CommandFailedError(f"status {done.returncode}: {said}")
        return done.stdout + done.stderr


class Ups:
    """Clusters of `epd up`: each is started by a page, and serves the pages that start none."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none."""
        self._desk = desk
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path, str]] = {}
        self._of_page: dict[str, str] = {}
        self._done: set[tuple[str, str]] = set()
        self.said: dict[str, str] = {}
        """What each command printed, where it ran for the first time."""

    def take(self, command: Command) -> None:
        """Run a command, unless it has been run on this cluster before."""
        if re.search(r"\bepd up ", command.key):
            if command.key not in self._running:
                self._start(command)
            self._of_page[command.page] = command.key
            return
        first = next(iter(self._running))
        cluster = self._of_page.get(command.page, first)
        if (command.key, cluster) in self._done:
            return
        self._done.add((command.key, cluster))
        _, state, address = self._running[cluster]
        text = command.text.replace("127.0.0.1:8000", address)
        said = self._desk.run(command, text=text, EPD_STATE_DIR=str(state))
        self.said.setdefault(command.key, said)

    def _start(self, command: Command) -> None:
        number = len(self._running)
        state, log = self._desk.folder / f"state-{number}", self._desk.folder / f"up-{number}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self._text(command)} --port 0"],
                cwd=self._desk.folder,
                env={**self._desk.environment, "EPD_STATE_DIR": str(state)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running[command.key] = (process, state, "")
        until(lambda: "Ctrl-C ends it." in log.read_text() or process.poll() is not None)
        base_url = re.search(r"base URL +http://([^/\s]+)", log.read_text())
        if base_url is None:
            raise CommandFailedError(f"{command}\n{log.read_text()}")
        self._running[command.key] = (process, state, base_url[1])

    @staticmethod
    def _text(command: Command) -> str:
        words = command.key
        assignments = re.match(r"(?:[A-Z_]+=\S+ )*", words)
        assert assignments is not None
        return f"env {words}" if assignments[0] else words

    def end(self) -> list[int]:
        """Press Ctrl-C in each and return their statuses."""
        for process, _, _ in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        statuses = []
        for process, _, _ in self._running.values():
            try:
                statuses.append(process.wait(timeout=LIMIT_S))
            finally:
                process.kill()
        return statuses


class PlayedKubernetes:
    """A control plane with nodes that kwok plays, and an operator beside it once it is installed.

    The chart's operator is a pod, and pods only seem to run there. So a process takes its part.
    """

    def __init__(self, plane: FakeNodes, folder: Path) -> None:
        """Give it nodes with room for the examples."""
        plane.add(2, resources={"nvidia.com/gpu": "64", "rdma/hca": "64"})
        self._api = plane.api
        tools = binaries.find("kubectl", "helm")
        folders = dict.fromkeys(str(path.parent) for path in tools.values())
        self._desk = Desk(folder, KUBECONFIG=str(plane.api.kubeconfig))
        path = os.pathsep.join([*folders, self._desk.environment["PATH"]])
        self._desk.environment["PATH"] = path
        self._operator: subprocess.Popen[bytes] | None = None
        self._log = folder / "operator.log"
        self._done: set[str] = set()
        plane.api.kubectl("apply", "-f", "-", manifest=_claim("models"))

    def take(self, command: Command) -> None:
        """Run a command, unless it has been run before."""
        key = command.key.replace("CLUSTER", CLUSTER)
        if key in self._done:
            return
        self._done.add(key)
        self._run(command)
        if self._operator is None and " charts/epd " in key:
            self._start_operator()

    def _run(self, command: Command) -> None:
        """Run it, and again where the operator has written to the same pod just then."""
        for _ in range(TRIES):
            try:
                self._desk.run(command)
            except CommandFailedError as failure:
                if "changed in the meantime" not in str(failure):
                    raise
                last = failure
            else:
                return
        raise last

    def _start_operator(self) -> None:
        with self._log.open("wb") as log:
            self._operator = subprocess.Popen(
                [sys.executable, "-m", "epd_operator", "--liveness-port=0", "--metrics-port=0"],
                env={**self._desk.environment, "EPD_LOG_LEVEL": "warning"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        """End the operator."""
        if self._operator is not None:
            self._operator.kill()
            self._operator.wait()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def _claim(name: str) -> dict[str, object]:
    """Return a volume and its claim, as a user's cluster has them."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **common,
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"name": name, "namespace": "default"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [volume, claim]}
