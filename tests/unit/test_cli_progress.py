"""What is printed while processes come up, and afterwards."""

import asyncio
import io

import pytest

from epd_cli import progress
from epd_cli.progress import PlainProgress, progress_for
from epd_operator.local_keeper import LocalEvent
from epd_operator.local_state import PodState


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_log_gets_a_line_for_every_change() -> None:
    stream = io.StringIO()
    with progress_for(stream) as shown:
        shown.report(LocalEvent("a", PodState.STARTING))
        shown.report(LocalEvent("a", PodState.LOADING))
        shown.report(LocalEvent("a", PodState.READY))
    states = [line.split(" (")[0] for line in stream.getvalue().splitlines()]
    assert states == ["  a: starting", "  a: loading model", "  a: ready"]


async def test_a_log_gets_a_sign_of_life_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SIGN_OF_LIFE_S", 0.001)
    stream = io.StringIO()
    with progress_for(stream) as shown:
        shown.report(LocalEvent("a", PodState.LOADING))
        shown.report(LocalEvent("b", PodState.READY))
        while "…" not in stream.getvalue():  # noqa: ASYNC110 - nothing tells of a line
            await asyncio.sleep(0.001)
    assert "  … a loading model (" in stream.getvalue()


async def test_once_up_only_troubles_are_told_with_their_time() -> None:
    stream = io.StringIO()
    with progress_for(stream) as shown:
        shown.started()
        shown.report(LocalEvent("a", PodState.RESTARTING, "was killed by SIGKILL; so it goes"))
        shown.report(LocalEvent("a", PodState.READY))
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["a was killed by SIGKILL; so it goes", "a is ready"]


async def test_an_end_that_is_meant_is_no_trouble() -> None:
    stream = io.StringIO()
    with progress_for(stream) as shown:
        shown.started()
        shown.stopping()
        shown.report(LocalEvent("a", PodState.RESTARTING, "was killed by SIGTERM"))
    assert stream.getvalue() == "stopping…\n"


async def test_a_terminal_shows_one_line_per_process_with_its_last_state() -> None:
    stream = Terminal()
    with progress_for(stream) as shown:
        for name in ("a", "b"):
            shown.report(LocalEvent(name, PodState.STARTING))
            shown.report(LocalEvent(name, PodState.READY))
        shown.started()
    last = stream.getvalue().splitlines()[-3:]
    assert [" ready " in line for line in last] == [True, True, False]


def test_a_closed_stream_is_no_fault() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    PlainProgress(Gone()).say("anything")
