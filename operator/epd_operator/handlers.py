"""Watches the API server with kopf. An event wakes a cluster's pass, and is otherwise not read.

Only `on.event` handlers: kopf then writes nothing to any object, no finalizer and no annotation,
and keeps no state that could be lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import kopf

from epd.vocabulary import API_GROUP, API_VERSION_NAME, CLUSTER_LABEL, PLURAL
from epd_operator.cluster import Credentials
from epd_operator.objects import Key

SILENCE_S: Final = 70.0
"""A watch that brings nothing for so long is dead: the server sends a bookmark every 60 s."""

WATCH_S: Final = 600  # whole: kopf writes it into the URL as it is
PAGE_OBJECTS: Final = 500

Wake = Callable[[Key], None]
Login = Callable[[], Awaitable[Credentials]]

_CLUSTERS: Final = (API_GROUP, API_VERSION_NAME, PLURAL)
_OWNED: Final = (("v1", "pods"), ("apps", "v1", "deployments"))


async def watch(wake: Wake, login: Login, namespaces: Sequence[str], stop: asyncio.Event) -> None:
    """Wake clusters on every change of theirs until `stop` is set.

    Args:
        wake: Called with the cluster that an event belongs to.
        login: Returns a coroutine with the way to the API server.
        namespaces: Where to look; empty: everywhere.
        stop: Ends the watch.
    """
    await kopf.operator(
        registry=make_registry(wake, login),
        settings=make_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
    )


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
