"""A gateway in front of workers, over a roster file; the gateway alone on its core."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from programs import BENCH, Program, Programs, cores, get_json, get_text

MODEL = "simulated"
EVERY_STAGE = "encode-prefill-decode"


class Fleet:
    """Workers by name, one gateway."""

    def __init__(self, programs: Programs, model: str = MODEL) -> None:
        """Plan a fleet without workers; they serve `model`."""
        self.programs = programs
        self.model = model
        self.workers: dict[str, Program] = {}
        self.gateway: Program
        self.url = self.admin_url = ""
        self.roster = programs.folder / "roster.json"
        self.stamps = programs.folder / "stamps"
        self.addresses: dict[str, str] = {}
        self._version = 0

    def start_simulated(self, roles: Mapping[str, str], *curves: str) -> None:
        """Start simulated workers with these roles; `curves` change the fast cost curves."""
        for name in roles:
            command: list[str | Path] = [sys.executable, BENCH / "stamped_worker.py", self.stamps]
            command += ["--name", name, "--listen", "127.0.0.1:0", "--engine", "simulated"]
            command += ["--served-name", self.model, "--exit-with-parent", "--grace-s", "1"]
            command += ["--cost-curves", BENCH / "curves_fast.yaml", "--", *curves]
            self.workers[name] = self.programs.start(name, command, cores()[1])
        for name, worker in self.workers.items():
            self.addresses[name] = f"127.0.0.1:{worker.ports()[0]}"
        self.set_roles(roles)

    def start_gateway(self, *profiler: str) -> None:
        """Start the gateway, and wait until it knows every worker of the roster."""
        command = [*(profiler or [sys.executable]), "-m", "epd_gateway"]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        command += ["--roster-file", str(self.roster), "--exit-with-parent"]
        self.gateway = self.programs.start("gateway", command, cores()[0])
        port, admin_port = self.gateway.ports()
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.until_ready()

    def until_ready(self) -> None:
        """Wait until every worker of the roster can take work under its present role."""
        self.gateway.wait_for(self._is_ready, "ready fleet")

    def set_roles(self, roles: Mapping[str, str]) -> None:
        """Write the roster."""
        self._version += 1
        workers = [
            {"name": name, "address": self.addresses[name], "role": role}
            for name, role in roles.items()
        ]
        body = {"version": self._version, "model": self.model, "workers": workers}
        fresh = self.roster.with_suffix(".new")
        fresh.write_text(json.dumps(body))
        os.replace(fresh, self.roster)

    def request(self, identifier: str) -> Any:
        """Return what the gateway noted of a request."""
        return get_json(f"{self.admin_url}/requests/{identifier}")

    def counter(self, name: str) -> dict[str, float]:
        """Return a counter of the gateway's, by its labels as they are written."""
        lines = get_text(f"{self.admin_url}/metrics").splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith(name))
        return {labels.removeprefix(name): float(value) for labels, _, value in found}

    def pids(self) -> list[str]:
        """Return NAME=PID of everything, for the load generator."""
        programs = {"gateway": self.gateway, **self.workers}
        return [f"{name}={program.pid}" for name, program in programs.items()]

    def engine_ms(self) -> dict[str, float]:
        """Return what the engines took until the first token, by response id."""
        took: dict[str, float] = {}
        for line in self.stamps.read_text().splitlines():
            identifier, _, us = line.split(" ")
            response_id = f"chatcmpl-{identifier}"
            took[response_id] = took.get(response_id, 0.0) + int(us) / 1000
        return took

    def _is_ready(self) -> bool:
        roster = get_json(f"{self.admin_url}/roster") or {}
        workers = roster.get("workers", [])
        current = roster.get("version") == self._version
        return current and all(worker["healthy"] for worker in workers)
