"""Watches the API server with kopf. An event wakes a cluster's pass, and is otherwise not read.

Only `on.event` handlers: kopf then writes nothing to any object, no finalizer and no annotation,
and keeps no state that could be lost.
"""

import asyncio
import logging
import selectors
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import kopf

from epd.vocabulary import API_GROUP, API_VERSION_NAME, CLUSTER_LABEL, PLURAL
from epd_operator.cluster import Credentials
from epd_operator.objects import MANAGER, Key

log = logging.getLogger(__name__)

SILENCE_S: Final = 70.0
"""A watch that brings nothing for so long is dead: the server sends a bookmark every 60 s."""

STOP_S: Final = 25.0
"""How long kopf may take to end its watches."""

KOPF_STOP_S: Final = 1.0
"""How long kopf may take to end when one of its watches has failed, before its tasks are cancelled
once more. It cancels each task once and waits without a limit; a watch whose connection closes at
that moment takes it for an error of the server's, and then waits for credentials for ever."""

LINGER_S: Final = 5.0
"""How long connections may take to close: a busy server says goodbye late."""

_OWN_FILES: Final = 1
"""What a loop without connections looks after: the pipe that wakes it."""

RESTART_S: Final = 2.0
"""kopf gives up at what it takes for fatal: a line that was cut, a watch or list refused with 410,
an error of the server's in a watch. We begin anew, with a list, so that nothing is missed."""

WATCH_S: Final = 600  # whole: kopf writes it into the URL as it is
PAGE_OBJECTS: Final = 500

Wake = Callable[[Key], None]
Login = Callable[[], Awaitable[Credentials]]

_CLUSTERS: Final = (API_GROUP, API_VERSION_NAME, PLURAL)
_OWNED: Final = (("v1", "pods"), ("apps", "v1", "deployments"))


class Watch:
    """The watches, in a thread and an event loop of their own.

    When kopf ends, it cancels every task of its loop that is younger than itself, and while it runs
    it takes the process's signals: neither is for it to decide here.
    """

    def __init__(self, wake: Wake, login: Login, namespaces: Sequence[str]) -> None:
        """Plan to wake clusters on every change of theirs.

        Args:
            wake: Called in this event loop with the cluster that an event belongs to.
            login: Returns a coroutine with the way to the API server.
            namespaces: Where to look; empty: everywhere.
        """
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._login = login
        self._namespaces = list(namespaces)
        self._halt = threading.Event()
        self._stop_kopf = threading.Event()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)

    async def run(self) -> None:
        """Watch until cancelled, whatever happens."""
        self._thread.start()
        try:
            await asyncio.shield(self._ended)
        finally:
            self._halt.set()
            self._stop_kopf.set()
            done, _ = await asyncio.wait([self._ended], timeout=STOP_S)
            if not done:
                log.warning("the watches take over %.0f s to end and are left behind", STOP_S)

    def _run(self) -> None:
        while not self._halt.is_set():
            try:
                selector = selectors.DefaultSelector()
                loop = partial(asyncio.SelectorEventLoop, selector)
                with asyncio.Runner(loop_factory=loop) as runner:
                    runner.run(self._watch(selector))
                why = "kopf ended them by itself"
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
            if not self._halt.is_set():
                log.warning("the watches ended: %s; they are begun anew", why)
                self._halt.wait(RESTART_S)
        self._tell(self._ended.set_result, None)

    async def _watch(self, selector: selectors.BaseSelector) -> None:
        self._stop_kopf = stop = threading.Event()
        if self._halt.is_set():
            return
        ours = asyncio.all_tasks()
        try:
            tasks = await kopf.spawn_tasks(
                registry=make_registry(self._relay, self._login),
                settings=make_settings(),
                standalone=True,
                # Else kopf asks for the user's name, and a container's user often has none. It is
                # a str by a name that kopf does not export.
                identity=cast(Any, MANAGER),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=stop,
            )
            running = asyncio.create_task(kopf.run_tasks(tasks, ignored=ours))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            while not running.done():
                await asyncio.wait([running], timeout=KOPF_STOP_S)
                for task in asyncio.all_tasks() - ours - {running}:
                    task.cancel()
            running.result()
        finally:
            # kopf waits for this flag in a thread of the loop, and the loop for its threads.
            stop.set()
            # aiohttp says that its TLS connections are closed when they only begin to be.
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while len(selector.get_map()) > _OWN_FILES:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)

    def _relay(self, key: Key) -> None:
        if not self._halt.is_set():
            self._tell(self._wake, key)

    def _tell(self, what: Callable[[Any], object], about: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(what, about)


def make_registry(wake: Wake, login: Login) -> kopf.OperatorRegistry:
    """Return the handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="login")
    async def connect(**_: Any) -> kopf.ConnectionInfo:
        return _connection(await login())

    @kopf.on.event(*_CLUSTERS, registry=registry, id="cluster")
    async def cluster_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        wake(Key(namespace or "", name or ""))

    for resource in _OWNED:

        @kopf.on.event(*resource, registry=registry, id=resource[-1])
        async def owned_changed(namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
            if CLUSTER_LABEL in labels:
                wake(Key(namespace or "", labels[CLUSTER_LABEL]))

    return registry


def make_settings() -> kopf.OperatorSettings:
    """Return how kopf watches: quietly, by label, and never trusting a silent connection."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_S
    settings.watching.inactivity_timeout = SILENCE_S
    settings.watching.chunk_size = PAGE_OBJECTS
    for resource in _OWNED:
        settings.watching.label_selectors[resource[-1]] = CLUSTER_LABEL
    settings.networking.request_timeout = 30
    return settings


def _connection(credentials: Credentials) -> kopf.ConnectionInfo:
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_file,
        insecure=credentials.insecure,
        certificate_path=credentials.certificate_file,
        private_key_path=credentials.key_file,
        token=credentials.token,
    )
