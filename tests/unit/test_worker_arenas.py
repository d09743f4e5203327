"""What a killed worker leaves in shared memory, and that nothing else is taken for it."""

import os
import subprocess
import sys
from pathlib import Path

from epd_worker.engine.arenas import mark_of, name_engine, remove_abandoned, remove_of


def arena(folder: Path, instance: str) -> Path:
    file = folder / f"vllm_ec_{instance}_dp0.mmap"
    file.touch()
    return file


def test_what_an_ended_process_left_is_removed_and_what_lives_is_kept(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = arena(tmp_path, f"{mark_of(sleeper.pid)}-1")
    own = arena(tmp_path, name_engine("1"))
    remove_abandoned(tmp_path)
    assert theirs.exists()
    sleeper.kill()
    sleeper.communicate()
    remove_abandoned(tmp_path)
    assert (theirs.exists(), own.exists()) == (False, True)


def test_a_process_that_has_got_the_id_of_an_ended_one_is_another(tmp_path: Path) -> None:
    own, pid, began = mark_of(os.getpid()).rsplit("-", 2)
    theirs = arena(tmp_path, f"{own}-{pid}-{int(began) - 1}-1")
    remove_abandoned(tmp_path)
    assert not theirs.exists()


def test_files_of_other_namespaces_and_of_other_programs_are_kept(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    names = [f"epd-1-{int(ended.stdout)}-1-1", "epd-nonsense", "epd", "1795305561929758773"]
    files = [arena(tmp_path, name) for name in names]
    remove_abandoned(tmp_path)
    assert [file for file in files if not file.exists()] == []


def test_an_engine_that_fails_removes_its_own_files_alone(tmp_path: Path) -> None:
    first, second = name_engine("1"), name_engine("2")
    arena(tmp_path, first)
    kept = arena(tmp_path, second)
    remove_of(first, tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
