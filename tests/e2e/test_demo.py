"""`epd demo`: it ends by itself, every claim it prints is checked, and it leaves nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import shared_memory

ROOT = Path(__file__).parents[2]
NOTHING_LOST = re.compile(r"^nothing lost: (\d+) streams, (\d+) flips, 0 errors$", re.MULTILINE)


def demo(state: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "epd_cli", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "EPD_STATE_DIR": str(state)},
        start_new_session=True,
    )


def check_claims(said: str) -> None:
    """Check that the demo showed what it is for."""
    end = NOTHING_LOST.search(said)
    assert end, said
    assert int(end[1]) >= 8
    assert int(end[2]) >= 8
    streams = re.search(r"(\d+) of (\d+) streams are identical to their reference", said)
    assert streams, said
    assert streams[1] == streams[2] == end[1]
    flips = re.findall(r"(\S+): (\S+) → (\S+) in \d+ ms while (\d+) streams run", said)
    assert len(flips) == int(end[2])
    assert all(int(running) > 0 for *_, running in flips)
    assert "every worker is still the process it was" in said


def test_the_demo_runs_with_simulated_engines_and_leaves_nothing(tmp_path: Path) -> None:
    process = demo(tmp_path / "state", "-f", "examples/simulated.yaml")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    check_claims(said)
    row = next(line for line in said.splitlines() if "1 image, streamed" in line)
    cells = re.split(r"\s{2,}", row.strip())
    assert [cell.split()[0] for cell in cells[1:4]] == ["simulated-0", "simulated-1", "simulated-2"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("after", ["2. The cluster", "3. Chats", "5. The same streams"])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, after: str) -> None:
    process = demo(tmp_path / "state", "-f", "examples/simulated.yaml")
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if after in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.wait(timeout=30) == 130
    assert not [child for child in family if child.is_running()]
    assert not (tmp_path / "state").exists()


def test_a_demo_that_is_kept_stays_up_until_it_is_ended(tmp_path: Path) -> None:
    process = demo(tmp_path / "state", "-f", "examples/simulated.yaml", "--keep", "--port", "0")
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if "Ctrl-C ends it." in line:
                break
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.wait(timeout=30) == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_the_demo_runs_with_real_engines(tmp_path: Path) -> None:
    before = shared_memory.files()
    process = demo(tmp_path / "state")
    said, _ = process.communicate(timeout=840)
    assert process.returncode == 0, said
    check_claims(said)
    assert not (tmp_path / "state").exists()
    # Python's resource trackers tidy up when their process has ended, a moment later. What others
    # do on this machine meanwhile is no concern of ours.
    deadline_s = time.monotonic() + 60
    while left := shared_memory.orphans() - before:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.1)
