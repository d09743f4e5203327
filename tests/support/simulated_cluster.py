"""A gateway and simulated workers as processes, over a roster file."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from epd.vocabulary import Role

MODEL = "simulated"
UNTIL_S = 120
_LISTENS = re.compile(r"listens on \S+:(\d+)|listening on \S+:(\d+)(?:, admin on \S+:(\d+))?")


class Process:
    """One of our programs, its log in a file."""

    def __init__(
        self, name: str, folder: Path, module: str, *arguments: str, **environment: str
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, "--exit-with-parent"],
                stderr=log,
                stdout=log,
                env={**os.environ, **environment},
            )
        self.pid = self._popen.pid

    async def ports(self) -> list[int]:
        """Return the ports that it says it listens on, once it does."""
        found: list[tuple[str, ...]] = []

        def says() -> bool:
            said = self.log.read_text()
            assert self._popen.poll() is None, said
            found.extend(_LISTENS.findall(said))
            return bool(found)

        await until(says)
        return [int(port) for port in found[0] if port]

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    async def ended(self) -> int:
        await until(lambda: self._popen.poll() is not None)
        return self._popen.wait()

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.kill()
        self._popen.wait()


class SimulatedCluster:
    """Workers by name, a gateway, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roster_file = folder / "roster.json"
        self.workers: dict[str, Process] = {}
        self.roles: dict[str, Role] = {}
        self.gateway: Process
        self.url = ""
        self.admin_url = ""
        self.addresses: dict[str, str] = {}
        self._version = 0

    async def start(
        self, *settings: str, curves: str = "", processes: int = 1, **roles: Role
    ) -> None:
        """Start workers and a gateway, and wait until it is ready."""
        for name in roles:
            self.start_worker(name, curves)
        for name, role in roles.items():
            await self.join(name, role)
        await self.start_gateway(*settings, processes=processes)

    def start_worker(self, name: str, curves: str = "", *options: str) -> None:
        arguments = ["--name", name, "--listen", "127.0.0.1:0", "--engine", "simulated"]
        arguments += ["--served-name", MODEL, "--grace-s", "0.5"]
        arguments += ["--kv-lease-s", "5", "--ec-lease-s", "5"]
        if curves:
            path = self.folder / f"{name}.yaml"
            path.write_text(curves)
            arguments += ["--cost-curves", str(path)]
        arguments += options
        self.workers[name] = Process(name, self.folder, "epd_worker", *arguments)

    async def join(self, name: str, role: Role) -> int:
        """Put a worker into the roster, or change its role; return the roster's version."""
        (port,) = await self.workers[name].ports()
        self.addresses[name] = f"127.0.0.1:{port}"
        self.roles[name] = role
        return self.write_roster()

    async def start_gateway(self, *settings: str, processes: int = 1) -> None:
        arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        arguments += ["--roster-file", str(self.roster_file), "--processes", str(processes)]
        arguments += [part for setting in settings for part in ("--set", setting)]
        self.gateway = Process("gateway", self.folder, "epd_gateway", *arguments)
        port, admin_port = await self.gateway.ports()
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        await self.ready()

    def write_roster(self) -> int:
        self._version += 1
        workers = [
            {"name": name, "address": self.addresses[name], "role": role}
            for name, role in self.roles.items()
        ]
        fresh = self.roster_file.with_suffix(".new")
        fresh.write_text(
            json.dumps(
                {"version": self._version, "cluster": "c", "model": MODEL, "workers": workers}
            )
        )
        os.replace(fresh, self.roster_file)
        return self._version

    async def flip(self, name: str, role: Role) -> None:
        """Change a role and wait until the gateway has applied it."""
        self.roles[name] = role
        await self.applied(self.write_roster())

    async def applied(self, version: int) -> None:
        """Wait until the gateway has applied a version of the roster."""

        async def is_applied() -> bool:
            return bool((await self.get("/ready"))["roster_version"] >= version)

        await until(is_applied)

    async def ready(self) -> None:
        """Wait until every worker of the roster can take work."""

        async def are_healthy() -> bool:
            return all(worker["healthy"] for worker in await self.known_workers())

        await until(are_healthy)

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return (await client.get(f"{self.admin_url}{path}")).json()

    async def known_workers(self) -> list[dict[str, Any]]:
        """Return what the gateway knows of each worker."""
        roster = await self.get("/roster")
        return roster["workers"] if roster["version"] == self._version else [{"healthy": False}]

    async def drained(self, *gone: str) -> None:
        """Wait until no worker has work, nor a lease on anything."""

        async def are_idle() -> bool:
            loads = [
                worker["load"]
                for worker in await self.known_workers()
                if worker.get("name") not in gone
            ]
            return all(load is not None and _is_idle(load) for load in loads)

        await until(are_idle)

    async def has_worked(self, name: str, stage: str) -> None:
        """Wait until a worker has begun work of a stage."""

        async def has_begun() -> bool:
            worker = next(w for w in await self.known_workers() if w["name"] == name)
            started = (worker["load"] or {}).get(stage, {}).get("started_total")
            return bool(worker["in_flight"][stage] or started)

        await until(has_begun)

    def client(self) -> openai.AsyncOpenAI:
        http = httpx.AsyncClient(trust_env=False, timeout=60)
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=http
        )

    def kill(self) -> None:
        for process in self.workers.values():
            process.kill()
        if hasattr(self, "gateway"):
            self.gateway.kill()


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = UNTIL_S) -> None:
    """Wait for a condition, and fail long before the test's own limit, which may not end a wait."""
    async with asyncio.timeout(within_s):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


def _is_idle(load: dict[str, Any]) -> bool:
    stages = (load["encode"], load["prefill"], load["decode"])
    busy = sum(stage["waiting"] + stage["running"] for stage in stages)
    return not (busy or load["kv_leases"] or load["ec_leases"])


@contextmanager
def simulated_cluster(folder: Path) -> Iterator[SimulatedCluster]:
    """Give a cluster that is killed afterwards."""
    cluster = SimulatedCluster(folder)
    try:
        yield cluster
    finally:
        cluster.kill()


async def stream_text(client: openai.AsyncOpenAI, messages: Any, max_tokens: int) -> str:
    """Return the text of a streamed answer, which must have ended by itself."""
    stream = await client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=max_tokens, stream=True
    )
    text, reason = "", None
    async for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
    assert reason is not None
    return text
