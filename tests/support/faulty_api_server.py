"""A proxy before a real API server that spoils chosen requests, and cuts or expires watches.

It speaks plain HTTP on loopback, so that it can read along. A request that it does not spoil goes
to the real server as it came.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from kube.api import Api
from yarl import URL

_HOP_HEADERS = {"Host", "Connection", "Transfer-Encoding", "Content-Length", "Content-Encoding"}
GONE = 410


@dataclass(frozen=True)
class Fault:
    """What becomes of a request.

    Attributes:
        status: The answer's status.
        takes_effect: The real server did what was asked, and the answer is nevertheless this.
    """

    status: int
    takes_effect: bool = False


def is_watch(request: web.Request) -> bool:
    return request.query.get("watch") in ("1", "true")


@dataclass
class FaultyApiServer:
    """Asks `fault_of` about every request.

    Attributes:
        fault_of: Returns what becomes of a request; None: nothing.
        done: What the real server did, as (method, path, status).
        spoilt: What was spoilt, by status.
        watches: How many watches have been opened at the real server.
    """

    api: Api
    session: aiohttp.ClientSession
    fault_of: Callable[[web.Request], Fault | None] = lambda request: None
    done: list[tuple[str, str, int]] = field(default_factory=list)
    spoilt: list[int] = field(default_factory=list)
    watches: int = 0
    port: int = 0
    _ends: set["asyncio.Future[bytes]"] = field(default_factory=set)

    def kubeconfig(self, like: Path, path: Path) -> Path:
        """Write a kubeconfig like another, that leads here."""
        config = yaml.safe_load(like.read_text())
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path.write_text(yaml.safe_dump(config))
        return path

    def expire_watches(self) -> None:
        """Tell every open watch that it is too old, as an event, and end it."""
        gone = {"kind": "Status", "code": GONE, "reason": "Expired", "message": "too old"}
        self._end(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")

    def cut_watches(self) -> None:
        """End every open watch in the middle of a line."""
        self._end(b'{"type":"MODIFIED","object":{"metadata":{"na')

    def _end(self, last_words: bytes) -> None:
        for end in self._ends:
            if not end.done():
                end.set_result(last_words)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        fault = self.fault_of(request)
        if fault is not None and not fault.takes_effect:
            return self._spoil(fault)
        headers = {k: v for k, v in request.headers.items() if k not in _HOP_HEADERS}
        headers["Accept-Encoding"] = "identity"
        url = URL(f"{self.api.url}{request.raw_path}", encoded=True)
        body = await request.read()
        async with self.session.request(
            request.method, url, headers=headers, data=body or None
        ) as answer:
            if is_watch(request) and answer.status == 200:
                return await self._relay(request, answer)
            content = await answer.read()
            self.done.append((request.method, request.path, answer.status))
        if fault is not None:
            return self._spoil(fault)
        return web.Response(status=answer.status, body=content, content_type="application/json")

    def _spoil(self, fault: Fault) -> web.Response:
        self.spoilt.append(fault.status)
        body = {"kind": "Status", "status": "Failure", "code": fault.status, "message": "spoilt"}
        headers = {"Retry-After": "0"} if fault.status == 429 else None
        return web.json_response(body, status=fault.status, headers=headers)

    async def _relay(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Pass a watch on until it ends, or is ended."""
        self.watches += 1
        end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._ends.add(end)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                line = asyncio.ensure_future(answer.content.readline())
                await asyncio.wait([line, end], return_when=asyncio.FIRST_COMPLETED)
                if end.done():
                    line.cancel()
                    await response.write(end.result())
                    break
                if not line.result():
                    break
                await response.write(line.result())
            await response.write_eof()
        except (ConnectionError, aiohttp.ClientError):
            pass
        finally:
            self._ends.discard(end)
            # Else TLS waits for the real server's goodbye, longer than this test may last.
            if answer.connection is not None and answer.connection.transport is not None:
                answer.connection.transport.abort()
        return response


@asynccontextmanager
async def faulty_api_server(api: Api) -> AsyncIterator[FaultyApiServer]:
    """Run a proxy that spoils nothing yet."""
    tls = ssl.create_default_context(cadata=api.ca.decode())
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=1 << 22
    ) as session:
        server = FaultyApiServer(api, session)
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.port = runner.addresses[0][1]
        try:
            yield server
        finally:
            server.cut_watches()
            await runner.cleanup()
