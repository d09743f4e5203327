"""A gateway over fake workers, in this process, and what a client of it sees."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
from fake_workers import FakeWorker, Fault

from epd.vocabulary import Role
from epd_gateway.roster_feed import RosterEntry, RosterSnapshot
from epd_gateway.server import Gateway, running_gateway
from epd_gateway.settings import Settings


class ListedRoster:
    """A roster feed that tests push to."""

    is_current = True

    def __init__(self) -> None:
        self._queue: asyncio.Queue[RosterSnapshot] = asyncio.Queue()
        self._version = 0

    def push(self, workers: list[FakeWorker]) -> int:
        self._version += 1
        entries = tuple(
            RosterEntry(
                name=worker.name,
                address=worker.address,
                role=worker.role,
                takes_new_work=worker.takes_new_work,
            )
            for worker in workers
        )
        snapshot = RosterSnapshot(version=self._version, cluster="c", model="fake", workers=entries)
        self._queue.put_nowait(snapshot)
        return self._version

    async def snapshots(self) -> AsyncIterator[RosterSnapshot]:
        while True:
            yield await self._queue.get()


@dataclass
class StreamedText:
    """What a client saw of a stream."""

    status: int
    text: str = ""
    ids: set[str] = field(default_factory=set)
    created: set[int] = field(default_factory=set)
    done: bool = False
    error: dict[str, Any] | None = None
    headers: httpx.Headers = field(default_factory=httpx.Headers)


class Cluster:
    """Fake workers and a gateway in front of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workers: dict[str, FakeWorker] = {}
        self.feed = ListedRoster()
        self.gateway: Gateway
        self.client: httpx.AsyncClient
        self.admin: httpx.AsyncClient
        self._stack = AsyncExitStack()

    async def start(self, **options: Any) -> None:
        gateway = running_gateway(self.settings, self.feed, admin_port=0, **options)
        self.gateway = await self._stack.enter_async_context(gateway)
        assert self.gateway.admin is not None
        for name, port in (
            ("client", self.gateway.public.port),
            ("admin", self.gateway.admin.port),
        ):
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
            )
            setattr(self, name, await self._stack.enter_async_context(client))

    async def stop(self) -> None:
        await self._stack.aclose()
        for worker in self.workers.values():
            await worker.die()

    async def add(self, **roles: Role) -> None:
        """Start workers, put them into the roster, and wait until the gateway uses them."""
        for name, role in roles.items():
            await self.start_worker(FakeWorker(name, role))
        await self.apply()
        await until(lambda: all(self.view(name).healthy for name in roles))

    async def start_worker(self, worker: FakeWorker) -> None:
        """Start a worker that is not in the roster yet."""
        self.workers[worker.name] = worker
        worker.peers = self.workers
        await worker.start()

    async def restart(self, name: str) -> None:
        """Start a worker's process anew, and wait until the gateway uses it."""
        worker = self.workers[name]
        await worker.die()
        await worker.start()
        await self.current(name)

    async def current(self, name: str) -> None:
        """Wait until the gateway uses the present process of a worker."""
        known = self.gateway.roster.workers[name]
        incarnation = str(self.workers[name].incarnation)
        await until(
            lambda: (
                known.view.healthy
                and known.description is not None
                and known.description.incarnation == incarnation
            )
        )

    async def apply(self) -> None:
        """Have the gateway follow the workers as they are now."""
        version = self.feed.push(list(self.workers.values()))
        await until(lambda: self.gateway.roster.version == version)

    def plan(self, *faults: Fault) -> list[Fault]:
        """Have each fault happen once, on whichever worker does such work first."""
        shared = list(faults)
        for worker in self.workers.values():
            worker.faults = shared
        return shared

    async def flip(self, name: str, role: Role) -> None:
        self.workers[name].role = role
        await self.apply()

    def view(self, name: str) -> Any:
        return self.gateway.roster.workers[name].view

    def body(self, *, images: list[str] = [], **fields: Any) -> dict[str, Any]:  # noqa: B006
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        content: Any = [{"type": "text", "text": "hello"}, *parts] if images else "hello"
        return {"model": "fake", "messages": [{"role": "user", "content": content}], **fields}

    async def chat(self, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=self.body(**fields))

    async def stream(self, **fields: Any) -> StreamedText:
        body = self.body(stream=True, **fields)
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            seen = StreamedText(response.status_code, headers=response.headers)
            async for line in response.aiter_lines():
                read_line(seen, line)
        return seen

    def metric(self, name: str, **labels: str) -> float:
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0

    async def settled(self) -> bool:
        """Wait until no worker holds anything of any request."""
        await until(lambda: not any(w.kv or w.ec for w in self.workers.values()))
        await until(lambda: not any(w.in_flight for w in self.gateway.roster.workers.values()))
        return True


def read_line(seen: StreamedText, line: str) -> None:
    """Take one line of a stream into what was seen."""
    if not line.startswith("data: "):
        return
    if line == "data: [DONE]":
        seen.done = True
        return
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        seen.error = chunk["error"]
        return
    seen.ids.add(chunk["id"])
    seen.created.add(chunk["created"])
    seen.text += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])


async def until(condition: Any) -> None:
    """Wait for a condition; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - what it asks about has no event
        await asyncio.sleep(0.005)


def quick_settings(**groups: Any) -> Settings:
    """Return settings under which failures are found soon."""
    base: dict[str, Any] = {
        "deadlines": {"connect_s": 1.0},
        "workers": {
            "probe_interval_s": 0.05,
            "probe_timeout_s": 0.4,
            "lost_after_s": 60.0,
            "suspect_s": 0.2,
            "release_delay_s": 0.005,
            "reconnect_max_s": 0.05,
        },
        "listen": {"port": 0, "stop_grace_s": 0.0},
        # No placement may depend on how fast this machine is.
        "slo": {"ttft_ms": 60000},
    }
    for group, values in groups.items():
        base[group] = {**base.get(group, {}), **values}
    return Settings.model_validate(base)
