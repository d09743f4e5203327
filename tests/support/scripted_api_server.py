"""An API server whose faults a script decides: what a real one cannot be told to do.

Every request takes the next step of the script. What a real one does by itself is tested there.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from epd_gateway.kubernetes_access import ApiServer


@dataclass
class Asked:
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "1"


@dataclass
class Step:
    """One answer. A body that is `held` stays open when all of it is written."""

    status: int = 200
    lines: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    held: bool = False
    cut: bool = False


def pods(*items: Any, version: str = "10", more: str = "") -> Step:
    """Answer with a list."""
    return Step(
        lines=[{"items": list(items), "metadata": {"resourceVersion": version, "continue": more}}]
    )


def status(code: int, message: str = "no", **headers: str) -> Step:
    """Answer with an error."""
    lines = [{"kind": "Status", "code": code, "message": message}]
    return Step(code, lines, {name.replace("_", "-"): value for name, value in headers.items()})


def events(*changes: Any, held: bool = False, cut: bool = False) -> Step:
    """Answer with a watch: pairs of a kind and an object."""
    lines = [{"type": kind, "object": item} for kind, item in changes]
    return Step(lines=lines, held=held, cut=cut)


def bookmark(version: str) -> tuple[str, Any]:
    """Return the event that says how far the watch is."""
    return "BOOKMARK", {"metadata": {"resourceVersion": version}}


class ScriptedApiServer:
    """Serves its script; the last step is repeated for ever."""

    def __init__(self, script: list[Step]) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.token = "first"
        self.port = 0

    def open(self) -> ApiServer:
        """Be an `ApiAccess`, too."""
        token: Callable[[], str] = lambda: self.token  # noqa: E731
        return ApiServer(f"http://127.0.0.1:{self.port}", None, token, "here")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                step = self._next(head.decode())
                await self._answer(step, writer)
                if step.held:
                    await reader.read()
                if step.held or step.cut:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _next(self, head: str) -> Step:
        request, *lines = head.strip().split("\r\n")
        where = urlsplit(request.split()[1])
        headers = dict(line.split(": ", 1) for line in lines)
        self.asked.append(Asked(where.path, dict(parse_qsl(where.query)), headers))
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    async def _answer(self, step: Step, writer: asyncio.StreamWriter) -> None:
        fields = {"transfer-encoding": "chunked", **step.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {step.status} X\r\n{head}\r\n".encode())
        for line in step.lines:
            text = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            # In two pieces: a line may arrive in any.
            for piece in (text[:7], text[7:]):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
        if not step.held and not step.cut:
            writer.write(b"0\r\n\r\n")
        await writer.drain()


@asynccontextmanager
async def scripted_api_server(*script: Step) -> AsyncIterator[ScriptedApiServer]:
    """Serve a script on loopback."""
    fake = ScriptedApiServer(list(script))
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
