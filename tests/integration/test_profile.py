"""`epd profile` of a worker process, over the session that gateways hold with it."""

import asyncio
from pathlib import Path

import pytest
from worker_process import client_of, description_where_ready, worker_process

from epd.api.curves import CurvesFile
from epd_cli.__main__ import main
from epd_sim.costs import StageCosts

# Three times as slow as an H200: the noise of this machine is small beside it.
TIME_SCALE = 3
MOST_ERROR = 0.05
ENGINE = (
    f"time_scale={TIME_SCALE}",
    "handoff.fixed_ms=8",
    "handoff.ec_fixed_ms=16",
    "handoff.gib_per_s=5",
)


@pytest.mark.timeout(180)
async def test_what_is_fitted_to_a_worker_predicts_lengths_that_were_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "curves.yaml"
    async with (
        worker_process("--name", "w", "--", *ENGINE) as worker,
        worker_process("--name", "v", "--", *ENGINE) as taker,
    ):
        for each in (worker, taker):
            async with client_of(each.address) as client:
                await description_where_ready(client)
        arguments = ["profile", worker.address, "--taker", taker.address, "-o", str(file)]
        assert await asyncio.to_thread(main, [*arguments, "--quick", "--repeats", "3"]) == 0
    said = capsys.readouterr().out
    print(said)
    error = float(said.partition("predicted TTFT: ")[2].partition("%")[0]) / 100
    assert error <= MOST_ERROR
    found, truth = (
        StageCosts.of(CurvesFile.read(file)),
        StageCosts.of(CurvesFile.read(None, ENGINE[1:])),
    )
    assert CurvesFile.read(file).handoff.source == "w to v"
    assert "live worker" in found.name
    assert (found.kv_tokens, found.kv_bytes_per_token) == (truth.kv_tokens, 147_456)
    for mine, true in (
        (found.encode_run_ms([1024] * 4), truth.encode_run_ms([1024] * 4)),
        (found.decode_step_ms(32, 32_768), truth.decode_step_ms(32, 32_768)),
        (found.kv_handoff_s(1024), truth.kv_handoff_s(1024)),
        (found.ec_handoff_s(1024), truth.ec_handoff_s(1024)),
    ):
        assert mine == pytest.approx(TIME_SCALE * true, rel=0.2)


@pytest.mark.parametrize(
    ("taker", "said"),
    [((), "w is the worker itself"), (("--model", "another"), "v cannot take from w")],
    ids=["itself", "another model"],
)
async def test_handoffs_are_measured_between_two_workers_of_a_kind(
    taker: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with worker_process("--name", "w") as worker, worker_process("--name", "v", *taker) as v:
        for each in (worker, v):
            async with client_of(each.address) as client:
                await description_where_ready(client)
        other = v.address if taker else worker.address
        arguments = ["profile", worker.address, "--taker", other, "-o", str(tmp_path / "c.yaml")]
        assert await asyncio.to_thread(main, arguments) == 1
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_where_no_worker_listens_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "127.0.0.1:1", "-o", str(tmp_path / "curves.yaml")]) == 1
    assert "no worker answers at 127.0.0.1:1" in capsys.readouterr().err
