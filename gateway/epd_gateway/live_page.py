"""The live view: one page on the admin listener that asks for a snapshot each second.

Read only, and of this origin alone: no script, style or font comes from elsewhere, and nobody may
frame it. On loopback it answers to loopback's names only, so that no other site can reach it by a
name that it made point here.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import resources
from ipaddress import ip_address
from typing import Final

import orjson

from epd_gateway.errors import RouteNotFound
from epd_gateway.http import Request, render_headers
from epd_gateway.live_snapshot import LiveSnapshot

PAGE_PATH: Final = "/live"
SNAPSHOT_PATH: Final = "/snapshot"

_FILES: Final[Mapping[str, tuple[str, str]]] = {
    PAGE_PATH: ("live.html", "text/html; charset=utf-8"),
    f"{PAGE_PATH}.css": ("live.css", "text/css; charset=utf-8"),
    f"{PAGE_PATH}.js": ("live.js", "text/javascript; charset=utf-8"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LivePage:
    """Serves the page, its parts and its data."""

    def __init__(self, snapshot: LiveSnapshot, host: str, *, anywhere: bool) -> None:
        """Read the files.

        Args:
            snapshot: What to show.
            host: Address of the admin listener.
            anywhere: Show the page wherever that listener is.
        """
        self._snapshot = snapshot
        self._is_local = is_loopback(host)
        self._is_on = anywhere or self._is_local
        folder = resources.files("epd_gateway") / "live"
        self._files = {
            path: (_headers(kind), (folder / name).read_bytes())
            for path, (name, kind) in _FILES.items()
        }
        self._json_headers = _headers("application/json")

    def routes(self) -> dict[str, dict[str, Callable[[Request], Awaitable[None]]]]:
        """Return the routes for the admin listener."""
        paths = [*self._files, SNAPSHOT_PATH]
        return {path: {"GET": partial(self._serve, path)} for path in paths}

    async def _serve(self, path: str, request: Request) -> None:
        if not self._is_on:
            raise RouteNotFound("the live view is off: --set live.anywhere=true shows it here")
        if self._is_local and not _names_loopback(request.headers.get(b"host", "")):
            raise RouteNotFound("the live view answers to 127.0.0.1 and localhost only")
        if path == SNAPSHOT_PATH:
            headers, body = self._json_headers, orjson.dumps(self._snapshot.get())
        else:
            headers, body = self._files[path]
        request.response.send(200, headers, body)


def is_loopback(host: str) -> bool:
    """Tell whether an address or name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _names_loopback(header: str) -> bool:
    """Tell whether a Host header, HOST or HOST:PORT, is a name of loopback."""
    host = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    return is_loopback(host.strip("[]").lower())


def _headers(content_type: str) -> bytes:
    return render_headers(
        (
            ("content-type", content_type),
            ("content-security-policy", _POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        )
    )
