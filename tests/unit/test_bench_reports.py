"""What bench/ makes of its figures: tables, files, limits, ratios, a command line."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
NAMES = ("foreign_load", "gateway_bench", "race", "report", "rising", "run")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load modules of bench/, which are scripts and in no package."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent == BENCH:
            del sys.modules[name]


def test_a_table_is_aligned_and_shows_missing_numbers_as_dashes(bench: Any) -> None:
    table = bench.report.Table("T", ("name", "ms"), [("a", 1234.56), ("long", None)])
    assert table.text().splitlines() == [
        "T", "  name    ms", "  ----------", "  a     1235", "  long     -",
    ]  # fmt: skip


def test_a_report_is_written_with_the_machine_and_every_round(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.report, "FOLDER", tmp_path / "build")
    found = bench.report.Report(figures={"x": 1}, raw=[{"round": 1}])
    path = bench.report.write("some", found, {"machine": bench.report.machine()})
    body = json.loads(path.read_text())
    assert path.name == "some.json"
    assert body["figures"] == {"x": 1}
    assert body["raw"] == [{"round": 1}]
    assert body["machine"]["cores"] >= 1


def step(done_per_s: float, own: float, others: float, **faults: int) -> dict[str, Any]:
    return {
        "done_per_s": done_per_s,
        "faults": faults,
        "processes": {
            "gateway": {"cores": own, "cpu_us_per_request": 900.0},
            "worker": {"cores": others},
        },
    }


@pytest.mark.parametrize(
    ("figures", "limit"),
    [
        (step(500, 0.5, 0.4), None),
        (step(500, 0.97, 0.4), "gateway"),
        (step(500, 0.5, 0.99), "load and workers"),
        (step(500, 0.5, 0.4, altered=1), "machine"),
        (step(400, 0.5, 0.4), "machine"),
    ],
)
def test_a_rising_rate_ends_where_something_is_full(
    bench: Any, monkeypatch: pytest.MonkeyPatch, figures: dict[str, Any], limit: str | None
) -> None:
    monkeypatch.setattr(bench.rising, "cores", lambda: ({0}, {1}))
    steps = list(bench.rising.climb(lambda _: dict(figures), "gateway", (500, 500)))
    assert [found["limit"] for found in steps] == ([limit] if limit else [None, None])
    assert bench.rising.highest(steps)["done_per_s"] == figures["done_per_s"]


def test_the_mock_s_time_is_read_from_its_ids_alone(bench: Any) -> None:
    ids = {"chatcmpl-7-20500": 30.0, "chatcmpl-0a1b": 30.0, "chatcmpl-x-y": 1.0}
    assert bench.race.engine_ms_of_mock(ids) == {"chatcmpl-7-20500": 20.5}


def test_ratios_say_how_many_times_a_rival_s_requests_we_serve(bench: Any) -> None:
    medians = {
        name: {300: {"requests_per_s_per_core": per_s}}
        for name, per_s in {"ours": 1000.0, "rival": 500.0, "no gateway": None}.items()
    }
    assert bench.race._ratios(medians) == {"rival": {300: 2.0}}


def test_another_load_generator_s_words_become_ours(bench: Any) -> None:
    said = {
        "altered": 0, "errors": 2, "incomplete": 1, "window_s": 4.0, "offered_rate": 10, "sent": 50,
        "ok": 47, "done_in_window": 40, "ttft_ms": {"p50": 1}, "gap_ms": None, "e2e_ms": None,
        "dispatch_lag_ms": None, "self_cpu_share": 0.1,
        "procs": {"gateway": {"cpu_share": 0.2, "cpu_us_per_req": 900, "peak_rss_mb": 70}},
    }  # fmt: skip
    figures = bench.foreign_load.figures(said)
    assert figures["faults"] == {"errors": 2, "incomplete": 1}
    assert figures["done_per_s"] == 10
    assert figures["processes"]["gateway"]["cpu_us_per_request"] == 900


def test_the_gateway_s_part_is_the_difference_to_the_direct_load(bench: Any) -> None:
    rounds = [
        {
            "beyond_engine_ms": {"p50": 3.0, "p99": 9.0},
            "direct_beyond_engine_ms": {"p50": 2.25, "p99": 5.0},
        }
    ]
    found = bench.gateway_bench._added_ttft(rounds)
    assert (found["added_ttft_ms_p50"], found["added_ttft_ms_p99"]) == (0.75, 4.0)
    assert bench.gateway_bench._added_ttft([{}])["added_ttft_ms_p50"] is None


def test_without_names_all_but_the_race_are_measured(bench: Any) -> None:
    names, options = bench.run.arguments([])
    assert names == ["gateway", "vllm", "handoff", "encode_ways", "policy"]
    assert (options.quick, options.rounds) == (False, 3)
    assert bench.run.arguments(["race", "--quick"]) == (
        ["race"],
        bench.report.Options(quick=True, rounds=1),
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no measurement 'nothing'"),
        (["--rounds", "0"], "--rounds: at least 1"),
        (["--loadgen", "/nowhere/llmload"], "/nowhere/llmload: not a program"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    bench: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        bench.run.arguments(arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]
