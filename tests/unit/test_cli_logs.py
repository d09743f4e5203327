"""`epd logs`: the last lines of each program, its name before each line."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from epd_cli import logs
from epd_cli.failures import UsageError


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a cluster of two programs, each with thirty lines in its log."""
    for name in ("gateway", "tiny-0"):
        lines = (f"{name} {number}\n" for number in range(30))
        (tmp_path / f"{name}.log").write_text("".join(lines))
    found = SimpleNamespace(logs=tmp_path)
    monkeypatch.setattr(logs, "chosen_cluster", lambda options: found)
    return found


def run(*names: str, tail: int = 2) -> int:
    return logs.run(SimpleNamespace(names=list(names), tail=tail))  # type: ignore[arg-type]


def test_the_last_lines_of_all_programs_are_shown(
    cluster: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert capsys.readouterr().out.splitlines() == [
        "[gateway] gateway 28", "[gateway] gateway 29", "[tiny-0] tiny-0 28", "[tiny-0] tiny-0 29",
    ]  # fmt: skip


def test_one_program_can_be_chosen(
    cluster: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tiny-0", tail=1) == 0
    assert capsys.readouterr().out == "[tiny-0] tiny-0 29\n"


def test_a_name_that_has_no_log_is_told_with_those_there_are(cluster: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="no log of 'tiny-9'; there are: gateway, tiny-0"):
        run("tiny-9")
