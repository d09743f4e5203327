"""The gateway put together: every part made once, started in order, stopped in reverse."""

import asyncio
import logging
import platform
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from epd.tracing import start_tracing
from epd.vocabulary import Component
from epd_gateway.access import ApiKeys, read_keys
from epd_gateway.app import App
from epd_gateway.followed_files import FollowedFiles
from epd_gateway.http import HttpServer
from epd_gateway.journal import Journal
from epd_gateway.live_page import LivePage
from epd_gateway.live_snapshot import LiveSnapshot
from epd_gateway.media import MediaResolver
from epd_gateway.metrics import GatewayMetrics, RosterCollector
from epd_gateway.pipeline import Pipeline
from epd_gateway.roster import Roster
from epd_gateway.roster_feed import RosterSource
from epd_gateway.settings import Listen, Settings, SettingsError, Workers
from epd_gateway.settings_file import SettingsSource
from epd_gateway.stages import Stages

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway.

    Attributes:
        roster: What it knows of the pods.
        metrics: What it counts.
        public: The listener for clients.
        admin: The listener for operators; None without one.
        task: Follows the roster feed; ends only if that breaks.
    """

    roster: Roster
    metrics: GatewayMetrics
    public: HttpServer
    admin: HttpServer | None
    task: "asyncio.Task[None]"


@asynccontextmanager
async def running_gateway(
    settings: Settings,
    source: RosterSource,
    *,
    settings_source: SettingsSource | None = None,
    model: str = "",
    key_file: Path | None = None,
    admin_host: str = "127.0.0.1",
    admin_port: int | None = None,
    decision_file: Path | None = None,
    reuse_port: bool = False,
) -> AsyncIterator[Gateway]:
    """Run a gateway for the time of the block.

    On the way out, requests in flight may go on for `listen.stop_grace_s`.

    Args:
        settings: Limits, deadlines, intervals and the public address.
        source: The roster feed.
        settings_source: Where the settings are read anew; None: they never change.
        model: Served model name; empty: what the feed says.
        key_file: The keys of those who may use the API; None: everybody may.
        admin_host: Address of the admin listener.
        admin_port: Its port; None: no admin listener.
        decision_file: What the control loop last decided, for the live view; None: not known.
        reuse_port: Share the public port with other processes.

    Raises:
        SettingsError: An address cannot be bound, or keys or a certificate cannot be read.
    """
    metrics = GatewayMetrics(settings.slo)
    async with AsyncExitStack() as stack:
        worker_tls(settings.workers)  # a mistake in it is told at once, not once a worker
        credentials = partial(worker_tls, settings.workers)
        roster = Roster(settings, model=model, credentials=credentials)
        stack.push_async_callback(roster.close)
        roster.on_flip = metrics.flip_delay.observe
        media = MediaResolver(settings.media)
        stack.push_async_callback(media.close)
        stages = Stages(settings.deadlines, metrics)
        pipeline = Pipeline(roster, media, stages, settings, metrics)
        keys = ApiKeys.read(key_file, settings.keys)
        journal = Journal()
        tracing = start_tracing(Component.GATEWAY, platform.node())
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        app = App(roster, pipeline, metrics, journal, keys, settings.deadlines, tracing)
        following = asyncio.create_task(roster.follow(source))
        stack.push_async_callback(_end, following)
        admin = None
        snapshot = LiveSnapshot(roster, journal, settings.slo, decision_file)
        if admin_port is not None:
            page = LivePage(snapshot, admin_host, anywhere=settings.live.anywhere)
            admin = HttpServer(app.admin(page.routes()), settings.limits)
            await _listen(admin, admin_host, admin_port)
            stack.push_async_callback(admin.stop)
        public = HttpServer(app.public(), settings.limits)
        metrics.read_at_scrape(
            RosterCollector(roster, public.stats, lambda: len(public.connections))
        )
        listen = settings.listen
        tls = _server_tls(listen)
        await _listen(public, listen.host, listen.port, tls, reuse_port)
        stack.push_async_callback(public.stop, listen.stop_grace_s)
        adopt = partial(_adopt, metrics, roster, snapshot, keys, media, public)
        files = [*_followed(listen, tls, keys, key_file), *_settings_file(settings_source, adopt)]
        for each in files:
            stack.push_async_callback(_end, asyncio.create_task(each.follow(listen.files_poll_s)))
        yield Gateway(roster, metrics, public, admin, following)


def _adopt(
    metrics: GatewayMetrics,
    roster: Roster,
    snapshot: LiveSnapshot,
    keys: ApiKeys,
    media: MediaResolver,
    public: HttpServer,
    now: Settings,
) -> None:
    """Let all whom a change may concern go by it from the next request on."""
    metrics.goodput.aim(now.slo)
    roster.aim(now.slo)
    snapshot.slo = now.slo
    keys.limits = now.keys
    media.obey(now.media)
    public.obey(now.limits)


async def _listen(
    server: HttpServer,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    reuse_port: bool = False,
) -> None:
    try:
        await server.start(host, port, ssl=tls, reuse_port=reuse_port)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from None


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _server_tls(listen: Listen) -> ssl.SSLContext | None:
    """Return the TLS of the public listener."""
    if listen.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(listen.tls_certificate, listen.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"TLS: {listen.tls_certificate}: {error}") from None
    return context


def _followed(
    listen: Listen, tls: ssl.SSLContext | None, keys: ApiKeys, key_file: Path | None
) -> Iterator[FollowedFiles]:
    """Return the files to read anew when they are replaced."""
    if key_file is not None:
        yield FollowedFiles("API keys", [key_file], lambda: keys.replace(read_keys(key_file)))
    certificate, key = listen.tls_certificate, listen.tls_key
    if tls is not None and certificate is not None and key is not None:

        def read() -> None:
            # On trial first: a context that took half of a pair would serve nobody.
            _server_tls(listen)
            tls.load_cert_chain(certificate, key)

        yield FollowedFiles("TLS", [certificate, key], read)


def _settings_file(
    source: SettingsSource | None, adopt: Callable[[Settings], None]
) -> Iterator[FollowedFiles]:
    """Return the file of the settings that may change, if there is one."""
    if source is not None and source.file is not None:
        yield FollowedFiles("settings", [source.file], lambda: adopt(source.read()))


def worker_tls(workers: Workers) -> grpc.ChannelCredentials | None:
    """Return the TLS towards workers, as the files say now; None speaks plain gRPC.

    Raises:
        SettingsError: A file cannot be read.
    """
    if workers.tls_ca is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(workers.tls_ca),
        private_key=_read(workers.tls_key) if workers.tls_key else None,
        certificate_chain=_read(workers.tls_certificate) if workers.tls_certificate else None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"TLS: {path}: {error.strerror}") from None
