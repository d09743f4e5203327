"""A simulated cluster, and a Prometheus that watches it by our rules."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from gen_monitoring import RULES

from epd_operator.local_roster import RosterFile
from monitoring.live.prometheus import PrometheusServer, Target

PROGRAM: Final = Path(__file__).with_name("cluster.py")
PATIENCE_S: Final = 120.0
START_PATIENCE_S: Final = 60.0
ATTEMPTS: Final = 2
NAME: Final = "watched"
MODEL: Final = "simulated"
CURVES: Final = "time_scale: 4.0\n"


@dataclass(frozen=True, slots=True)
class Watched:
    """A cluster that runs, and who watches it; `url` is its gateway's."""

    url: str
    roster: RosterFile
    prometheus: PrometheusServer


def manifest(curves: Path, **spec: Any) -> dict[str, Any]:
    """Return an EPDCluster of six simulated workers, changed by `spec`."""
    return {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"source": MODEL, "servedName": MODEL},
            "engine": {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}},
            "replicas": 6,
            "method": "E-P-D",
            "slo": {"ttftMilliseconds": 1000, "tpotMilliseconds": 100},
            "control": {"mode": "Active", "intervalSeconds": 1, "cooldownSeconds": 3},
            **spec,
        },
    }


@contextmanager
def watched_cluster(
    folder: Path,
    *,
    curves_text: str = CURVES,
    rules: Path = RULES,
    **spec: Any,
) -> Iterator[Watched]:
    """Run a cluster and a Prometheus with our rules, in an empty folder.

    Args:
        folder: For all files.
        curves_text: What its engine pretends, as YAML.
        rules: The rules, ours or changed ones.
        spec: Changes of the cluster's spec.
    """
    curves, file = folder / "curves.yaml", folder / "cluster.yaml"
    curves.write_text(curves_text)
    file.write_text(yaml.safe_dump(manifest(curves, **spec)))
    with (
        PrometheusServer(folder / "prometheus", [rules]) as server,
        _running(folder, file) as addresses,
    ):
        labels = {"namespace": "local", "epd_dev_cluster": NAME}
        server.set_targets([Target(address, labels) for address in addresses["targets"]])
        yield Watched(addresses["gateway"], RosterFile(folder / "roster.json"), server)


@contextmanager
def _running(folder: Path, file: Path) -> Iterator[dict[str, Any]]:
    with (folder / "cluster.log").open("wb") as log:
        for attempt in range(ATTEMPTS):
            with subprocess.Popen(
                [sys.executable, str(PROGRAM), str(folder), str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as process:
                try:
                    addresses = _addresses(process)
                    if addresses is None and attempt + 1 < ATTEMPTS:
                        continue  # somebody else took a port
                    if addresses is None:
                        raise RuntimeError((folder / "cluster.log").read_text())
                    yield addresses
                    return
                finally:
                    process.kill()


def _addresses(process: "subprocess.Popen[str]") -> dict[str, Any] | None:
    """Return what the cluster says once it is ready; None if it ends or does not get so."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        return None
    addresses: dict[str, Any] = json.loads(line)
    with suppress(TimeoutError):
        until(
            lambda: process.poll() is not None or _is_ready(addresses["gateway"]), START_PATIENCE_S
        )
    return addresses if process.poll() is None and _is_ready(addresses["gateway"]) else None


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def until(holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: It did not become true.
    """
    deadline_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError("still not so")
        time.sleep(0.2)
