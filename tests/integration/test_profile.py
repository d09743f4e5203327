"""`epd profile` of a worker process, over the session that gateways hold with it."""

import asyncio
from pathlib import Path

import pytest
from worker_process import client_of, description_where_ready, worker_process

from epd.api.curves import CurvesFile
from epd_cli.__main__ import main
from epd_sim.costs import StageCosts

# Five times as slow as an H200, so that the noise of this machine is small beside what is measured.
TIME_SCALE = 5
MOST_ERROR = 0.05


@pytest.mark.timeout(180)
async def test_what_is_fitted_to_a_worker_predicts_lengths_that_were_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "curves.yaml"
    async with worker_process("--name", "w", "--", f"time_scale={TIME_SCALE}") as worker:
        async with client_of(worker.address) as client:
            await description_where_ready(client)
        arguments = ["profile", worker.address, "-o", str(file), "--quick"]
        assert await asyncio.to_thread(main, arguments) == 0
    said = capsys.readouterr().out
    print(said)
    error = float(said.partition("predicted TTFT: ")[2].partition("%")[0]) / 100
    assert error <= MOST_ERROR
    found, truth = StageCosts.of(CurvesFile.read(file)), StageCosts.of(CurvesFile.read(None))
    assert "live worker" in found.name
    assert (found.kv_tokens, found.kv_bytes_per_token) == (truth.kv_tokens, 147_456)
    for mine, true in (
        (found.encode_run_ms([1024] * 4), truth.encode_run_ms([1024] * 4)),
        (found.decode_step_ms(32, 32_768), truth.decode_step_ms(32, 32_768)),
    ):
        assert mine == pytest.approx(TIME_SCALE * true, rel=0.2)


def test_where_no_worker_listens_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "127.0.0.1:1", "-o", str(tmp_path / "curves.yaml")]) == 1
    assert "no worker answers at 127.0.0.1:1" in capsys.readouterr().err
