"""Who owns a state directory, and what is left of it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epd.vocabulary import Role
from epd_operator.local_state import (
    LocalError,
    LocalPod,
    RunningCluster,
    StateDirectory,
    base_directory,
    find_running,
)

CLUSTER = RunningCluster(
    name="demo",
    model="tiny",
    engine="Simulated",
    process_id=1234,
    gateway_process_id=1235,
    gateway_url="http://127.0.0.1:8000",
    admin_url="http://127.0.0.1:8001",
    pods=(LocalPod(name="demo-0", role=Role.ENCODE),),
)


Open = Callable[..., StateDirectory]


@pytest.fixture
def claimed() -> Iterator[Open]:
    """Claim directories; give them up when the test ends."""
    with contextlib.ExitStack() as stack:

        def claim(path: Path, base: Path | None = None) -> StateDirectory:
            directory = StateDirectory(path, base)
            directory.claim()
            stack.callback(directory.release, keep_logs=False)
            return directory

        yield claim


def test_what_is_written_is_read_back_while_the_cluster_runs(tmp_path: Path, claimed: Open) -> None:
    owner = claimed(tmp_path / "demo")
    owner.write(CLUSTER)
    assert StateDirectory(tmp_path / "demo").read() == CLUSTER


def test_a_directory_in_use_is_not_given_twice(tmp_path: Path, claimed: Open) -> None:
    owner = claimed(tmp_path / "demo")
    owner.write(CLUSTER)
    with pytest.raises(LocalError, match=r"already runs from .*/demo \(process 1234\)"):
        StateDirectory(tmp_path / "demo").claim()


def test_a_released_directory_leaves_nothing_behind(tmp_path: Path, claimed: Open) -> None:
    base = tmp_path / "base"
    owner = claimed(base / "demo", base)
    owner.write(CLUSTER)
    (owner.logs / "gateway.log").write_text("words")
    owner.release(keep_logs=False)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_another_cluster_uses_stays(tmp_path: Path, claimed: Open) -> None:
    base = tmp_path / "base"
    first = claimed(base / "first", base)
    claimed(base / "second", base)
    first.release(keep_logs=False)
    assert [directory.path.name for directory in find_running(base)] == ["second"]


def test_kept_logs_can_be_read_and_the_next_run_starts_afresh(
    tmp_path: Path, claimed: Open
) -> None:
    directory = claimed(tmp_path / "demo")
    directory.write(CLUSTER)
    (directory.logs / "gateway.log").write_text("last words")
    directory.release(keep_logs=True)
    assert (directory.logs / "gateway.log").read_text() == "last words"
    assert not directory.cluster_file.exists()

    again = claimed(tmp_path / "demo")
    assert list(again.logs.iterdir()) == []


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine.log").write_text("mine")
    with pytest.raises(LocalError, match="holds other files"):
        StateDirectory(tmp_path).claim()
    assert (tmp_path / "logs" / "mine.log").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_what_a_killed_cluster_left_is_not_a_running_cluster(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal;"
        "from epd_operator.local_state import RunningCluster, StateDirectory;"
        f"directory = StateDirectory(pathlib.Path({str(tmp_path / 'demo')!r}));"
        "directory.claim();"
        f"directory.write(RunningCluster.model_validate_json({CLUSTER.model_dump_json()!r}));"
        "assert directory.is_running();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script])
    assert killed.returncode == -signal.SIGKILL
    directory = StateDirectory(tmp_path / "demo")
    assert directory.cluster_file.exists()
    assert find_running(tmp_path) == []
    with pytest.raises(LocalError, match="no cluster runs from"):
        directory.read()


def test_a_cluster_that_is_only_starting_is_told_apart(tmp_path: Path, claimed: Open) -> None:
    directory = claimed(tmp_path / "demo")
    with pytest.raises(LocalError, match="only starting"):
        directory.read()


def test_a_directory_is_private_to_its_user(tmp_path: Path, claimed: Open) -> None:
    directory = claimed(tmp_path / "demo")
    assert directory.path.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder somebody else's")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "base"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(LocalError, match="belongs to user 12345"):
        StateDirectory(theirs / "demo", theirs).claim()


def test_the_environment_says_where_state_lies(tmp_path: Path) -> None:
    user = f"epd-{os.getuid()}"
    assert base_directory({"EPD_STATE_DIR": "/somewhere"}) == Path("/somewhere")
    assert base_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / user
    assert base_directory({"XDG_RUNTIME_DIR": "/no/such/folder"}).name == user
