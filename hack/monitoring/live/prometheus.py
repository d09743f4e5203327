"""A real Prometheus that scrapes what it is told, with our rules; and what it answers."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml
from kube import binaries

SCRAPE_INTERVAL_S: Final = 0.5
RATE_INTERVAL: Final = "10s"
NATIVE: Final = {
    "convert_classic_histograms_to_nhcb": True,
    "always_scrape_classic_histograms": True,
}
START_TIMEOUT_S: Final = 60
QUERY_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Target:
    """What to scrape: HOST:PORT, and the labels its series get unless they have them."""

    address: str
    labels: Mapping[str, str]


def program(name: str) -> str:
    """Return the path of a program of Prometheus.

    Raises:
        kube.binaries.UnavailableError: It is nowhere to be had.
    """
    try:
        return str(binaries.find(name)[name])
    except binaries.UnavailableError:
        if installed := shutil.which(name):
            return installed
        raise


def makes_native_histograms() -> bool:
    """Tell whether the Prometheus of this machine can: 3 and later."""
    done = subprocess.run(
        [program("prometheus"), "--version"], capture_output=True, text=True, check=True
    )
    return int((done.stdout or done.stderr).split()[2].partition(".")[0]) >= 3


class Prometheus:
    """A server that answers, whoever runs it.

    Attributes:
        url: Its address.
        rate_interval: Over what rates are taken, as PromQL writes it: four scrapes or more.
    """

    def __init__(self, url: str, rate_interval: str = "1m") -> None:
        """Ask the server at `url`."""
        self.url = url.rstrip("/")
        self.rate_interval = rate_interval

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer of its HTTP API; what it refuses is raised."""
        answer = httpx.post(
            f"{self.url}/api/v1/{path}", data=parameters, trust_env=False, timeout=QUERY_TIMEOUT_S
        )
        body = answer.json()
        if body["status"] != "success":
            raise RuntimeError(f"{body.get('error')}: {parameters.get('query')}")
        return body["data"]


class PrometheusServer(Prometheus):
    """A server of our own. As a context manager it is ready inside, and gone after."""

    def __init__(
        self,
        folder: Path,
        rules: Sequence[Path] = (),
        alertmanagers: Sequence[str] = (),
        target_files: Sequence[Path] = (),
        *,
        native_histograms: bool = False,
        jobs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Start a server in an empty folder, which is made if it is not there.

        Args:
            folder: For its files.
            rules: Rule files, evaluated each second.
            alertmanagers: HOST:PORTs that are told of alerts.
            target_files: Files of `file_sd_configs`, beside what `set_targets` says.
            native_histograms: Make native histograms of classic ones, and keep both, as the chart's
                PodMonitor asks for; Prometheus 3 and later.
            jobs: Further scrape configurations.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        super().__init__(f"http://127.0.0.1:{port}", RATE_INTERVAL)
        self._targets = folder / "targets.json"
        self.set_targets([])
        files = [str(path) for path in (self._targets, *target_files)]
        config = {
            "global": {
                "scrape_interval": f"{SCRAPE_INTERVAL_S * 1e3:.0f}ms",
                "evaluation_interval": "1s",
            },
            "rule_files": [str(path) for path in rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [*alertmanagers]}]}]},
            "scrape_configs": [
                {
                    "job_name": "epd",
                    "honor_labels": True,
                    **(NATIVE if native_histograms else {}),
                    "file_sd_configs": [{"files": files, "refresh_interval": "1s"}],
                },
                *jobs,
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        """Wait until it is ready; end it if it does not get so."""
        try:
            self.until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()

    def set_targets(self, targets: Sequence[Target]) -> None:
        """Scrape these from now on."""
        groups = [
            {"targets": [target.address], "labels": dict(target.labels)} for target in targets
        ]
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(groups))
        fresh.replace(self._targets)

    def until_ready(self) -> None:
        """Wait until it answers."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("prometheus does not get ready; see its log")
            time.sleep(0.05)

    def alerts(self) -> dict[str, set[str]]:
        """Return the names of alerts by state: `pending`, `firing`."""
        answer = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False, timeout=QUERY_TIMEOUT_S)
        found: dict[str, set[str]] = {"pending": set(), "firing": set()}
        for alert in answer.json()["data"]["alerts"]:
            found[alert["state"]].add(alert["labels"]["alertname"])
        return found

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._log.close()
