"""`epd top`: a running cluster at one look, anew each second."""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from epd_cli.connect import chosen_cluster
from epd_cli.failures import CommandError
from epd_cli.top_frame import Line, Mood, frame
from epd_operator import local_probe
from epd_operator.local_state import StateDirectory

INTERVAL_S: Final = 1.0
ONCE_WITHIN_S: Final = 10.0

Look = Callable[[], Awaitable[dict[str, Any] | None]]
"""Returns the gateway's snapshot; None while it does not answer."""


def run(options: argparse.Namespace) -> int:
    """Show the cluster until Ctrl-C, or once."""
    directory = chosen_cluster(options)
    directory.read()  # where none runs, that is told in a line and not on a screen
    show(lambda: look_at(directory), once=options.once)
    return 0


async def look_at(directory: StateDirectory) -> dict[str, Any] | None:
    """Ask the gateway of a cluster here; its address is new after each of its starts."""
    answer = await local_probe.get_json(f"{directory.read().admin_url}/snapshot")
    return dict(answer[1]) if answer and answer[0] == 200 else None


def show(look: Look, *, once: bool) -> None:
    """Print one look as plain text, or fill the screen anew each second until Ctrl-C.

    Raises:
        CommandError: The gateway does not answer, and one look was asked for.
    """
    if once:
        for line in frame(asyncio.run(_first(look)), shutil.get_terminal_size().columns, None):
            print(line.text)
        return
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "dumb"):
        raise CommandError("this is no terminal; --once prints plain text")
    # A script's background jobs ignore Ctrl-C, and this would never end in one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(_watch(look))


async def _first(look: Look) -> dict[str, Any]:
    deadline_s = time.monotonic() + ONCE_WITHIN_S
    while (seen := await look()) is None:
        if time.monotonic() > deadline_s:
            raise CommandError("the gateway does not answer; see epd status, and its log")
        await asyncio.sleep(INTERVAL_S / 4)
    return seen


async def _watch(look: Look) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            width, height = console.size
            seen = await look()
            lines = await_line() if seen is None else frame(seen, width, height)
            live.update(picture(lines), refresh=True)
            await asyncio.sleep(INTERVAL_S)


def await_line() -> list[Line]:
    """Return what is shown while there is nothing to show."""
    return [Line("the gateway does not answer; looking again each second", Mood.BAD)]


def picture(lines: list[Line]) -> Text:
    """Return the lines for a terminal, with colours if it has any."""
    text = Text(no_wrap=True, overflow="crop")
    for number, line in enumerate(lines):
        text.append("\n" if number else "").append(line.text, style=line.mood.value or None)
    return text
