"""Lists pods and watches them, for ever, through whatever happens to the API server.

A watch is asked to end after `watch_s` and goes on where it ended; a bookmark just before says how
far that is. A watch that neither speaks nor ends is therefore known to be dead `grace_s` later.
After every other end the pods are listed anew: the list is the truth, whatever was missed.

A client library was measured and left out: docs/adr/0008-pods-watched-over-plain-http.md.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum, unique
from time import monotonic
from typing import Any, Final, TypeAlias

import httpx
import orjson

from epd_gateway.kubernetes_access import ApiAccess, ApiServer
from epd_gateway.settings import KubernetesWatch

logger = logging.getLogger(__name__)

_PAGE: Final = 100
_FIRST_RETRY_S: Final = 0.1
_GONE: Final = 410
_TOO_SOON_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_CHANGES: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})

# Unreachable, unreadable files, or answers that no API server gives.
_TROUBLE: Final = (
    httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, LookupError, TypeError,
)  # fmt: skip

Pod: TypeAlias = dict[str, Any]


@unique
class Change(StrEnum):
    """What happened to a pod; other events of a watch name no pod."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class PodList:
    """All pods, at one moment.

    Attributes:
        pods: As the API server writes them.
        version: The resourceVersion of the moment.
    """

    pods: list[Pod]
    version: str


@dataclass(frozen=True, slots=True)
class PodEvents:
    """What has happened since.

    Attributes:
        events: In order; empty for a bookmark.
        version: The resourceVersion after them.
    """

    events: list[tuple[Change, Pod]]
    version: str


class ApiFailure(Exception):
    """The API server answered with an error; the message is one line.

    Attributes:
        code: HTTP status.
        retry_after_s: How long it asks us to wait.
    """

    def __init__(self, code: int, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {' '.join(message.split())[:300]}")
        self.code = code
        self.retry_after_s = retry_after_s


class PodWatch:
    """Follows the pods of one namespace that have certain labels."""

    def __init__(
        self, access: ApiAccess, namespace: str, selector: str, settings: KubernetesWatch
    ) -> None:
        """Choose the pods.

        Args:
            access: The way to the API server.
            namespace: Where they are; empty: the namespace of the credentials.
            selector: The labels they have, as Kubernetes writes that.
            settings: Times.
        """
        self._access = access
        self._namespace = namespace
        self._selector = selector
        self._settings = settings
        self._version = ""
        self._failing = ""
        self._following = False

    @property
    def is_following(self) -> bool:
        """The last attempt to reach the API server worked, and a watch is open or about to be."""
        return self._following

    async def changes(self) -> AsyncIterator[PodList | PodEvents]:
        """Yield all pods, then what happens to them, and all pods again after a failure."""
        pause_s = _FIRST_RETRY_S
        while True:
            asked_s = 0.0
            try:
                async for change in self._follow():
                    pause_s = _FIRST_RETRY_S
                    self._recovered()
                    self._version = change.version
                    yield change
            except ApiFailure as failure:
                asked_s = failure.retry_after_s
                self._failed(str(failure), expected=failure.code == _GONE)
            except _TROUBLE as error:
                self._failed(f"{type(error).__name__}: {error}".rstrip(": "))
            self._version = ""
            self._following = False
            # Many gateways lose the API server at one moment; they must not return at one.
            wait_s = max(min(asked_s, _LONGEST_WAIT_S), pause_s * random.uniform(0.5, 1.0))
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, self._settings.retry_max_s)

    async def _follow(self) -> AsyncIterator[PodList | PodEvents]:
        """Yield from one connection until it fails."""
        server = self._access.open()
        namespace = self._namespace or server.namespace
        path = f"/api/v1/namespaces/{namespace}/pods"
        async with server.client(self._settings.request_timeout_s) as client:
            if not self._version:
                yield await self._list(client, server, path)
            while True:
                began_s = monotonic()
                async for events in self._watch(client, server, path):
                    yield events
                if monotonic() - began_s < min(_TOO_SOON_S, self._settings.watch_s / 2):
                    raise ApiFailure(200, "the watch ended as soon as it began")

    async def _list(self, client: httpx.AsyncClient, server: ApiServer, path: str) -> PodList:
        pods: list[Pod] = []
        params = {"labelSelector": self._selector, "limit": str(_PAGE)}
        while True:
            answer = await client.get(path, params=params, headers=server.authorization())
            _check(answer, answer.content)
            page = orjson.loads(answer.content)
            pods += page["items"]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return PodList(pods, metadata["resourceVersion"])
            params["continue"] = metadata["continue"]

    async def _watch(
        self, client: httpx.AsyncClient, server: ApiServer, path: str
    ) -> AsyncIterator[PodEvents]:
        settings = self._settings
        params = {
            "labelSelector": self._selector,
            "watch": "1",
            "allowWatchBookmarks": "1",
            "resourceVersion": self._version,
            "timeoutSeconds": str(settings.watch_s),
        }
        timeout = httpx.Timeout(
            settings.request_timeout_s, read=settings.watch_s + settings.grace_s
        )
        request = client.stream(
            "GET", path, params=params, headers=server.authorization(), timeout=timeout
        )
        async with request as answer:
            if answer.status_code != httpx.codes.OK:
                _check(answer, await answer.aread())
            begun = b""
            async for chunk in answer.aiter_raw():
                *lines, begun = (begun + chunk).split(b"\n")
                if any(lines):
                    yield read_events(lines)

    def _failed(self, why: str, *, expected: bool = False) -> None:
        """Say so once for each reason; an expected failure is no news."""
        if expected:
            logger.info("pods: %s; listing them anew", why)
        elif why != self._failing:
            logger.warning("pods: %s; the last good roster stays", why)
            self._failing = why

    def _recovered(self) -> None:
        self._following = True
        if self._failing:
            logger.info("pods: followed again")
            self._failing = ""


def read_events(lines: list[bytes]) -> PodEvents:
    """Return what some lines of a watch say.

    Raises:
        ApiFailure: One of them is an error; those before it are lost, and listed anew.
        ValueError, LookupError, TypeError: One is not what an API server writes.
    """
    events: list[tuple[Change, Pod]] = []
    version = ""
    for line in lines:
        if not line:
            continue
        event = orjson.loads(line)
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise ApiFailure(item.get("code", 500), item.get("message", "the watch failed"))
        version = item["metadata"]["resourceVersion"]
        if kind in _CHANGES:
            events.append((Change(kind), item))
    return PodEvents(events, version)


def _check(answer: httpx.Response, body: bytes) -> None:
    """Raise what the API server refused."""
    if answer.status_code == httpx.codes.OK:
        return
    try:
        message = str(orjson.loads(body)["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        message = answer.reason_phrase
    after = answer.headers.get("retry-after", "")
    raise ApiFailure(answer.status_code, message, float(after) if after.isdecimal() else 0.0)
