"""Several gateway processes behind one port.

Each process holds its own roster, streams and counters; the kernel spreads connections over them.
Process N listens for operators at the admin port plus N. If one of them ends on its own, the others
are stopped as well, and whoever started us starts us anew.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence

from epd_gateway.command_line import Options
from epd_gateway.process import StopSignals
from epd_gateway.settings import SettingsError

logger = logging.getLogger(__name__)


async def supervise(options: Options, argv: Sequence[str]) -> int:
    """Run the processes until a signal ends them; return the exit status.

    Args:
        options: What the command line said.
        argv: The command line itself, for the processes.

    Raises:
        SettingsError: The port cannot be had.
    """
    signals = StopSignals()
    with reserve_port(options) as reserved:
        port = int(reserved.getsockname()[1])
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "epd_gateway",
                *child_arguments(options, argv, port, index),
                # Ctrl-C reaches us alone: from us each child hears of it once.
                start_new_session=True,
            )
            for index in range(options.processes)
        ]
        waits = [asyncio.create_task(child.wait()) for child in children]
        asked = asyncio.create_task(signals.asked.wait())
        await asyncio.wait([asked, *waits], return_when=asyncio.FIRST_COMPLETED)
        expected = asked.done()
        if not expected:
            logger.error("a gateway process ended on its own; stopping the others")
        _send(children, signal.SIGTERM)
        hurrying = asyncio.create_task(_hurry(signals, children))
        statuses = await asyncio.gather(*waits)
        for task in (asked, hurrying):
            task.cancel()
    return max(map(abs, statuses)) if expected else 1


def reserve_port(options: Options) -> socket.socket:
    """Return a socket that holds the public port without listening, which tells what port 0 is.

    Raises:
        SettingsError: The address cannot be bound.
    """
    listen = options.settings.listen
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        holder.bind((listen.host, listen.port))
    except OSError as error:
        holder.close()
        raise SettingsError(
            f"cannot listen on {listen.host}:{listen.port}: {error.strerror}"
        ) from None
    return holder


def child_arguments(options: Options, argv: Sequence[str], port: int, index: int) -> list[str]:
    """Return the command line of one process: the given one, with a few things settled."""
    host = options.settings.listen.host
    host = f"[{host}]" if ":" in host else host
    arguments = [*argv, "--processes", "1", "--share-port", "--exit-with-parent"]
    arguments += ["--listen", f"{host}:{port}"]
    if options.admin_port is not None:
        admin_host = f"[{options.admin_host}]" if ":" in options.admin_host else options.admin_host
        admin_port = options.admin_port + index if options.admin_port else 0
        arguments += ["--admin-listen", f"{admin_host}:{admin_port}"]
    return arguments


async def _hurry(signals: StopSignals, children: "Sequence[asyncio.subprocess.Process]") -> None:
    """Pass a second signal on."""
    await signals.hurried.wait()
    _send(children, signal.SIGTERM)


def _send(children: "Sequence[asyncio.subprocess.Process]", number: signal.Signals) -> None:
    for child in children:
        if child.returncode is None:
            child.send_signal(number)
