"""What the Dockerfiles call, outside a container: the same script, the same entry points."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
FOREIGN = {"pytest", "hypothesis", "torch", "vllm", "mypy", "ruff", "openai"}
CALL = re.compile(r"^RUN .*?/src/(docker/build_venv\.sh) /opt/epd (.+)$", re.MULTILINE)
ENTRYPOINT = re.compile(r'^ENTRYPOINT \["(.+)"\]$', re.MULTILINE)


def built(name: str, folder: Path) -> Path:
    """Run a Dockerfile's call without its engine; return the program that its image starts."""
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    (call,) = CALL.findall(text)
    script, arguments = call
    extra = arguments.split()[0]
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / script, folder, extra], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0 and "dns error" in done.stderr.lower():
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    (entrypoint,) = ENTRYPOINT.findall(text)
    return folder / "bin" / entrypoint


def bare(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command with nothing in its environment, as far from the checkout as it gets."""
    return subprocess.run(command, env={}, cwd="/", capture_output=True, text=True)


@pytest.fixture(scope="module", params=["operator", "gateway", "worker-cpu"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program of one image, in an environment made as its Dockerfile does."""
    return built(request.param, tmp_path_factory.mktemp("image") / "epd")


def test_an_image_holds_its_program_its_own_libraries_and_no_others(program: Path) -> None:
    done = bare(program, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {program.name} ")
    packages = {path.name for path in program.parents[1].glob("lib/python3*/site-packages/*")}
    assert packages & FOREIGN == set()
    assert (packages & {"kubernetes", "kopf"} != set()) == (program.name == "epd-operator")


def test_a_mistake_is_one_line_there_too(program: Path) -> None:
    done = bare(program, "--nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_worker_of_an_image_serves(tmp_path: Path) -> None:
    worker = built("worker-cpu", tmp_path / "epd")
    process = subprocess.Popen(
        [worker, "--engine", "simulated", "--listen", "127.0.0.1:0", "--name", "w"],
        env={},
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "listens on" in line:
                break
        assert "listens on" in said
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
