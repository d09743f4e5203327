"""`python hack/kube`: a control plane that lives between two commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from kube import binaries
from kube.api import wait_until
from kube.binaries import UnavailableError
from kube.control_plane import PROGRAMS

COMMAND = [sys.executable, str(Path(__file__).parents[2] / "hack" / "kube")]


@pytest.fixture
def kubectl() -> Path:
    """Return kubectl; skip where there is no Kubernetes to be had."""
    try:
        return binaries.find(*PROGRAMS)["kubectl"]
    except UnavailableError as error:
        pytest.skip(f"no ControlPlane here: {error}")


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the bed in `folder`."""
    arguments = [*COMMAND, command, "--dir", str(folder)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def namespaces(kubectl: Path, folder: Path) -> str:
    """Ask the bed in `folder` for its namespaces."""
    config = folder / "bed" / "admin.kubeconfig"
    command = [kubectl, f"--kubeconfig={config}", f"--cache-dir={folder / 'cache'}", "get", "ns"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_bed_is_up_until_down_and_leaves_nothing(kubectl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bed"
    done = run(folder, "up")
    assert done.returncode == 0, done.stderr
    assert f"export KUBECONFIG={folder}/bed/admin.kubeconfig" in done.stdout
    assert "kube-system" in namespaces(kubectl, folder)
    again = run(folder, "up")
    assert again.returncode == 1
    assert again.stderr == f"a bed is up in {folder}; end it with `down` first\n"
    assert "kube-system" in namespaces(kubectl, folder)
    keeper = psutil.Process(int((folder / "lock").read_text()))
    children = keeper.children(recursive=True)
    assert run(folder, "down").returncode == 0
    assert not folder.exists()
    wait_until(lambda: not any(child.is_running() for child in children), "still running")
    assert run(folder, "down").returncode == 0


def test_a_bed_whose_keeper_was_killed_can_be_started_anew(kubectl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bed"
    assert run(folder, "up").returncode == 0
    os.kill(int((folder / "lock").read_text()), signal.SIGKILL)
    wait_until(lambda: not (folder / "bed").exists(), "files are left")
    done = run(folder, "up")
    assert done.returncode == 0, done.stderr
    assert "kube-system" in namespaces(kubectl, folder)
    assert run(folder, "down").returncode == 0
