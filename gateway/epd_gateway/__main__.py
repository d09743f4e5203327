"""`epd-gateway`: OpenAI's API in front of a fleet of workers."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import uvloop

from epd import logs
from epd_gateway.command_line import Options, parse_arguments
from epd_gateway.kubernetes_access import find_access
from epd_gateway.process import (
    StopSignals,
    calm_garbage_collector,
    exit_with_parent,
    raise_open_files,
)
from epd_gateway.roster_feed import FileRoster, RosterSource
from epd_gateway.roster_kubernetes import KubernetesRoster
from epd_gateway.server import running_gateway
from epd_gateway.settings import SettingsError
from epd_gateway.supervisor import supervise

logger = logging.getLogger("epd_gateway")

USER_MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a gateway until a signal ends it; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse_arguments(argv)
    try:
        logs.configure(options.log_format)
    except logs.LogSettingsError as error:
        return _complain(str(error))
    if options.exit_with_parent:
        exit_with_parent()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if options.processes > 1:
                return runner.run(supervise(options, argv))
            runner.run(run(options))
    except SettingsError as error:
        return _complain(str(error))
    return 0


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; a second signal cuts the requests in flight off.

    Raises:
        SettingsError: For what the user must mend.
    """
    signals = StopSignals()
    settings = options.settings
    raise_open_files(settings.limits.max_connections)
    serving = running_gateway(
        settings,
        _roster_source(options),
        settings_source=options.settings_source,
        model=options.model,
        key_file=options.api_key_file,
        admin_host=options.admin_host,
        admin_port=options.admin_port,
        decision_file=options.decision_file,
        reuse_port=options.share_port,
    )
    async with serving as gateway:
        calm_garbage_collector()
        admin = f", admin on {options.admin_host}:{gateway.admin.port}" if gateway.admin else ""
        logger.info("listening on %s:%d%s", settings.listen.host, gateway.public.port, admin)
        asked = asyncio.create_task(signals.asked.wait())
        await asyncio.wait({asked, gateway.task}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        logger.info("stopping: %d requests in flight", len(gateway.public.tasks))
        hurry = asyncio.create_task(_hurry(signals, gateway.public.tasks))
    hurry.cancel()


def _roster_source(options: Options) -> RosterSource:
    """Return the feed that the command line names."""
    settings = options.settings
    if options.roster_file is not None:
        return FileRoster(options.roster_file, settings.workers.roster_poll_s)
    access = find_access(os.environ)
    access.open()  # a mistake in it is told at once, not once a retry
    return KubernetesRoster(
        access, options.kubernetes_cluster, options.namespace, settings.kubernetes
    )


async def _hurry(signals: StopSignals, requests: "set[asyncio.Task[None]]") -> None:
    """Cut the requests in flight off once a second signal comes."""
    await signals.hurried.wait()
    for request in list(requests):
        request.cancel()


def _complain(what: str) -> int:
    sys.stderr.write(f"epd-gateway: {what}\n")
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
