"""A gateway of the test's own, on any roster file: with short deadlines, or with a defect."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from epd_operator import local_ports

HOST = "127.0.0.1"
READY_WITHIN_S = 60
# No placement may depend on how fast this machine is.
PATIENT = {"slo.ttft_ms": 60000, "slo.tpot_ms": 10000}
BROKEN_GATEWAY = Path(__file__).with_name("broken_gateway.py")


class GatewayProcess:
    """One gateway; `kill` or `stop` it, and `start` it again at the same address."""

    def __init__(
        self, roster: Path, log: Path, settings: Mapping[str, object], defect: str = ""
    ) -> None:
        """Plan a gateway that follows `roster`; a `defect` is one that `broken_gateway` knows."""
        port, admin_port = (local_ports.free_block(1, HOST) for _ in range(2))
        self.url = f"http://{HOST}:{port}"
        self.admin_url = f"http://{HOST}:{admin_port}"
        program = [BROKEN_GATEWAY, defect] if defect else ["-m", "epd_gateway"]
        self._command = [sys.executable, *program, "--roster-file", roster, "--exit-with-parent"]
        self._command += ["--listen", f"{HOST}:{port}", "--admin-listen", f"{HOST}:{admin_port}"]
        for name, value in {**PATIENT, **settings}.items():
            self._command += ["--set", f"{name}={value}"]
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, version: int = 0) -> None:
        """Start it; return once it can serve and follows the roster's `version`."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it is waited for below
                self._command, stdout=log, stderr=log, env={**os.environ, "EPD_LOG_LEVEL": "info"}
            )
        await self.until_ready(version)

    async def until_ready(self, version: int = 0) -> None:
        """Wait until every stage has a pod, by the roster's `version` or a later one."""
        await self._until(lambda ready: ready["ready"] and ready["roster_version"] >= version)

    async def until_applied(self, version: int) -> None:
        """Wait until the roster's `version`, or a later one, is followed."""
        await self._until(lambda ready: ready["roster_version"] >= version)

    async def _until(self, holds: Any) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        async with httpx.AsyncClient() as client:
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.said()
                try:
                    answer = await client.get(f"{self.admin_url}/ready")
                    if holds(answer.json()):
                        return
                except httpx.TransportError:
                    pass
                assert time.monotonic() < deadline_s, self.said()
                await asyncio.sleep(0.01)

    async def admin(self, path: str) -> Any:
        """Return the JSON of one of the admin routes."""
        async with httpx.AsyncClient() as client:
            return (await client.get(self.admin_url + path)).raise_for_status().json()

    async def in_flight(self) -> dict[str, dict[str, int]]:
        """Return what it believes to be in flight, by pod and stage; nothing when idle."""
        workers = (await self.admin("/roster"))["workers"]
        busy = {w["name"]: {s: n for s, n in w["in_flight"].items() if n} for w in workers}
        return {name: stages for name, stages in busy.items() if stages}

    def kill(self) -> None:
        """End it without a word."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, as a service manager does, and wait for that."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)

    def said(self) -> str:
        """Return the end of its log."""
        return self._log.read_text()[-3000:]
