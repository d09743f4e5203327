"""Readers of public traces: small files of the same shape, and the real ones where they are."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from epd_sim.traces import (
    AZURE_CODE,
    MOONCAKE,
    SERVEGEN_IMAGE,
    TraceError,
    azure,
    find_trace,
    mooncake,
    servegen,
)


def real(name: str) -> Path:
    try:
        return find_trace(name)
    except TraceError as error:
        pytest.skip(str(error))


def write_client(folder: Path, rate: float = 2.0) -> None:
    rows = [f"{600 * i},{rate},1.0,Gamma,1.0,0.5" for i in range(3)]
    (folder / "chunk-0-trace.csv").write_text("\n".join(rows))
    table = {
        "text_tokens": "{100: 1.0}",
        "image_tokens": "{525: 0.5, 1196: 0.5}",
        "image_count": "{0: 0.5, 2: 0.5}",
        "output_tokens": "{20: 1.0}",
    }
    (folder / "chunk-0-dataset.json").write_text(json.dumps({"0": table}))


def test_azure_times_start_at_zero(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.4799600,3180,8\n"
    )
    first, second = azure(file)
    assert (first.arrival_s, first.shape.text_tokens, first.shape.output_tokens) == (0, 4808, 10)
    assert second.arrival_s == pytest.approx(0.5)


def test_mooncake_times_are_milliseconds(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"timestamp": 40, "input_length": 9, "output_length": 3, "hash_ids": [1]}\n')
    (request,) = mooncake(file)
    assert (request.arrival_s, request.shape.prompt_tokens) == (0.04, 9)


def test_servegen_draws_at_the_rate_of_its_windows(tmp_path: Path) -> None:
    write_client(tmp_path)
    requests = servegen(tmp_path, seed=5, seconds=1200)
    assert len(requests) == pytest.approx(2400, rel=0.1), "seed 5"
    assert {len(request.shape.image_tokens) for request in requests} == {0, 2}
    assert servegen(tmp_path, seed=5, seconds=1200) == requests


@pytest.mark.parametrize(
    ("reader", "text"),
    [(azure, "T,C,G\nyesterday,1,2\n"), (mooncake, "{}\n"), (mooncake, "not json\n")],
)
def test_a_broken_trace_is_refused_with_its_line(
    tmp_path: Path, reader: Callable[[Path], object], text: str
) -> None:
    file = tmp_path / "broken"
    file.write_text(text)
    with pytest.raises(TraceError, match="line"):
        reader(file)


def test_a_missing_trace_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="put it there"):
        find_trace("nosuch.csv", [tmp_path])


def test_the_azure_code_trace_is_as_bursty_as_published() -> None:
    requests = azure(real(AZURE_CODE))
    assert len(requests) == 8819
    gaps = [b.arrival_s - a.arrival_s for a, b in itertools.pairwise(requests)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread / mean > 5


def test_the_mooncake_trace_is_read_whole() -> None:
    assert len(mooncake(real(MOONCAKE))) == 3993


def test_servegen_clients_bring_images() -> None:
    requests = servegen(real(SERVEGEN_IMAGE), seed=1, from_s=36_000, seconds=600)
    with_images = sum(bool(request.shape.image_tokens) for request in requests)
    assert 0.3 < with_images / len(requests) <= 1, "seed 1"
