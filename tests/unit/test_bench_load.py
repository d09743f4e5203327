"""The load generator of bench/: what it takes for a good answer, and what it does not."""

import argparse
import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load modules of bench/, which are scripts and in no package."""
    monkeypatch.syspath_prepend(str(BENCH))
    names = ("connection", "load", "mock_openai", "prompts", "statistic")
    before = set(sys.modules)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent == BENCH:
            del sys.modules[name]


def chunked(*events: bytes) -> bytes:
    """Return a streamed 200 of these chunks."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def event(text: str) -> bytes:
    """Return one chunk of a chat."""
    return b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


DONE = b"data: [DONE]\n\n"


def verdict(bench: Any, answer: bytes, expected: bytes | None = b" one two") -> str:
    exchange = bench.prompts.Exchange(b"{}", expected)
    sample = bench.connection.Sample(exchange, 0.0, timed=True, eager=True)
    return str(bench.connection.judge(answer, sample))


def test_the_expected_text_is_ok(bench: Any) -> None:
    assert verdict(bench, chunked(event(" one"), event(" two"), DONE)) == "ok"


@pytest.mark.parametrize(
    "texts", [(" one",), (" one", " two", " two"), (" two", " one"), (" one", " too")]
)
def test_a_lost_doubled_swapped_or_changed_token_is_altered(
    bench: Any, texts: tuple[str, ...]
) -> None:
    assert verdict(bench, chunked(*map(event, texts), DONE)) == "altered"


def test_an_answer_without_its_end_is_incomplete(bench: Any) -> None:
    assert verdict(bench, chunked(event(" one"), event(" two"))) == "incomplete"


def test_an_event_that_a_proxy_cut_in_two_is_read_whole(bench: Any) -> None:
    whole = event(" one")
    cut = len(whole) - 12
    answer = chunked(whole[:cut], whole[cut:], event(" two"), DONE)
    assert verdict(bench, answer) == "ok"


def test_a_status_is_told(bench: Any) -> None:
    assert verdict(bench, b"HTTP/1.1 503 Busy\r\n\r\n") == "status 503"


def test_any_text_will_do_where_none_is_expected(bench: Any) -> None:
    assert verdict(bench, chunked(event(" whatever"), DONE), None) == "ok"


def test_percentiles_are_numbers_that_occurred(bench: Any) -> None:
    found = bench.statistic.distribution([float(n) for n in range(100, 0, -1)])
    assert (found["p50"], found["p90"], found["p99"], found["max"]) == (50, 90, 99, 100)
    assert bench.statistic.distribution([]) is None


def test_what_a_request_took_beyond_its_engine_is_taken_by_request(bench: Any) -> None:
    assert bench.statistic.added_ms({"a": 30.0, "b": 9.0, "c": 1.0}, {"a": 28.5, "b": 4.0}) == [
        1.5,
        5.0,
    ]


def test_a_median_skips_rounds_without_the_number(bench: Any) -> None:
    rounds: list[dict[str, Any]] = [{"x": {"y": 3}}, {"x": None}, {"x": {"y": 5}}]
    assert bench.statistic.median_of(rounds, "x", "y") == 4
    assert bench.statistic.median_of(rounds, "z") is None


async def test_the_simulated_engine_says_what_the_load_expects(bench: Any) -> None:
    shape = bench.prompts.Shape("simulated", prompt_words=9, max_tokens=5, image_kib=1)
    first, second = await bench.prompts.for_simulated(shape, 2)
    assert first.body != second.body
    assert first.expected != second.expected
    assert [len(exchange.expected.split()) for exchange in (first, second)] == [5, 5]


@pytest.fixture
async def mock_port(bench: Any) -> AsyncIterator[int]:
    """Serve a mock that steps as fast as it can."""
    engine = bench.mock_openai.Engine("mock", 0.0, 0.001)
    server = await asyncio.get_running_loop().create_server(
        lambda: bench.mock_openai.MockConnection(engine), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


def options(load: ModuleType, port: int, *more: str) -> argparse.Namespace:
    argv = ["--url", f"http://127.0.0.1:{port}", "--model", "mock", "--rate", "200", *more]
    argv += ["--duration-s", "0.4", "--warmup-s", "0.1", "--max-tokens", "6"]
    given: argparse.Namespace = load.arguments(argv)
    return given


@pytest.mark.parametrize("eager_every", ["1", "4"])
async def test_a_load_on_the_mock_finds_every_answer_complete(
    bench: Any, mock_port: int, eager_every: str
) -> None:
    given = options(bench.load, mock_port, "--expect", "mock", "--eager-every", eager_every)
    figures = await bench.load.run(given)
    assert figures["sent"] > 0
    assert (figures["ok"], figures["faults"]) == (figures["sent"], {})
    assert all(identifier.count("-") == 2 for identifier in figures["ttft_ms_by_id"])


async def test_a_load_that_expects_other_words_finds_every_answer_altered(
    bench: Any, mock_port: int
) -> None:
    given = options(bench.load, mock_port)
    shape = bench.prompts.Shape("mock", max_tokens=6)
    exchanges = [
        bench.prompts.Exchange(exchange.body, exchange.expected + b" more")
        for exchange in bench.prompts.for_mock(shape, 8)
    ]
    figures = await bench.load.Load(given, exchanges).run()
    assert figures["sent"] > 0
    assert figures["faults"] == {"altered": figures["sent"]}


async def test_a_load_on_a_closed_port_counts_errors(bench: Any) -> None:
    from epd_operator import local_ports

    port = local_ports.free_block(1, "127.0.0.1")
    figures = await bench.load.run(options(bench.load, port))
    assert figures["sent"] > 0
    assert figures["faults"] == {"cannot connect": figures["sent"]}
