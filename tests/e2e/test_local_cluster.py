"""`epd up` and the commands beside it, as a user runs them, with simulated engines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from PIL import Image

EPD = (sys.executable, "-m", "epd_cli")
MANIFEST = """
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {name: sim}
spec:
  model: {source: simulated, servedName: simulated}
  engine: {type: Simulated}
  replicas: 3
  method: E-P-D
  control: {mode: "Off"}
"""

Json = dict[str, Any]


class Shell:
    """Runs `epd` in a folder of its own, where neither torch nor vLLM can be imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.manifest = folder / "cluster.yaml"
        self.manifest.write_text(MANIFEST)
        banned = folder / "banned"
        banned.mkdir()
        for name in ("torch", "vllm", "transformers"):
            (banned / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
        self._environment = {
            **os.environ,
            "EPD_STATE_DIR": str(self.state),
            "PYTHONPATH": str(banned),
            "TMPDIR": str(folder),
        }
        self.ups: list[Up] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*EPD, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=self._environment,
            cwd=self.folder,
        )

    def status(self) -> Json:
        """Return `epd status -o json`."""
        answer = self.run("status", "-o", "json")
        assert answer.returncode == 0, answer.stderr
        status: Json = json.loads(answer.stdout)
        return status

    def pods(self) -> dict[str, Json]:
        """Return the pods of `epd status` by name."""
        return {pod["name"]: pod for pod in self.status()["pods"]}

    def up(self, *arguments: str) -> "Up":
        """Start `epd up` on a free port."""
        output = self.folder / f"up-{len(self.ups)}.log"
        with output.open("wb") as file:
            process = self.start_up(file, *arguments)
        self.ups.append(Up(process, output))
        return self.ups[-1]

    def start_up(self, output: IO[bytes] | int, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start `epd up`, its words going to `output`."""
        return subprocess.Popen(
            [*EPD, "up", "-f", "cluster.yaml", "--port", "0", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self.folder,
            start_new_session=True,
        )


class Up:
    """A running `epd up`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def said(self) -> str:
        """Return what it has printed."""
        return self._output.read_text()

    def until_said(self, words: str) -> "Up":
        """Wait until it has printed something."""
        wait_for(lambda: words in self.said() or self.process.poll() is not None, self.said)
        assert words in self.said(), self.said()
        return self

    def family(self) -> list[psutil.Process]:
        """Return it and all its processes."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


def wait_for(condition: Callable[[], bool], told: Callable[[], object] = lambda: "") -> None:
    """Wait until something holds; the test's own time limit is the only one."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, told()
        time.sleep(0.02)


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; a zombie that nobody has collected does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    for up in shell.ups:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()


@pytest.fixture
def up(shell: Shell) -> Up:
    return shell.up().until_said("Ctrl-C ends it.")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    file = tmp_path / "picture.png"
    Image.new("RGB", (96, 64), "teal").save(file)
    return str(file)


def test_a_cluster_comes_up_and_says_how_to_use_it(shell: Shell, up: Up) -> None:
    said = up.said()
    for words in ("sim-0 encode, sim-1 prefill, sim-2 decode", "base URL  http://127.0.0.1:"):
        assert words in said


def test_the_printed_curl_line_works(shell: Shell, up: Up) -> None:
    lines = up.said().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("  curl "))
    script = "\n".join(lines[first : first + 2]).replace("  curl ", "curl -sS -f ", 1)
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_status_shows_every_pod_its_role_and_its_process(shell: Shell, up: Up) -> None:
    status = shell.status()
    assert status["gateway"]["rosterVersion"] == status["rosterVersion"] == 4
    processes = {process.pid for process in up.family()}
    for pod, role in zip(status["pods"], ("encode", "prefill", "decode"), strict=True):
        assert (pod["role"], pod["ready"], pod["restarts"]) == (role, True, 0)
        assert pod["processId"] in processes
        assert pod["load"]["kvLeases"] == 0
    rows = [line.split() for line in shell.run("status").stdout.splitlines()]
    assert [row[:3] for row in rows if row[0].startswith("sim-")] == [
        ["sim-0", "encode", "ready"],
        ["sim-1", "prefill", "ready"],
        ["sim-2", "decode", "ready"],
    ]


def test_a_chat_shows_the_answer_and_who_served_which_stage(
    shell: Shell, up: Up, picture: str
) -> None:
    answer = shell.run("chat", "--image", picture, "--image", picture, "--max-tokens", "7", "Hi")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.split()) == 7
    told = [line.split() for line in answer.stderr.splitlines() if line.startswith("  ")]
    assert [line[:2] for line in told] == [
        ["encode", "sim-0"],
        ["prefill", "sim-1"],
        ["decode", "sim-2"],
    ]


def test_a_refusal_of_the_service_is_one_line(shell: Shell, up: Up) -> None:
    answer = shell.run("chat", "--model", "nobody", "Hi")
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("epd chat: 404: ")


def test_a_flip_moves_work_without_a_restart(shell: Shell, up: Up) -> None:
    before = shell.pods()
    flipped = shell.run("flip", "sim-0", "decode")
    assert flipped.returncode == 0, flipped.stderr
    assert flipped.stdout.startswith("sim-0: encode → decode, done in ")
    assert "no pod is offered encode now" in flipped.stdout
    assert shell.run("flip", "sim-2", "encode").returncode == 0
    assert shell.run("chat", "Hi").returncode == 0
    after = shell.pods()
    assert after["sim-0"]["role"] == "decode"
    assert after["sim-0"]["load"]["stages"]["decode"]["startedTotal"] == 1
    assert after["sim-2"]["load"]["stages"]["decode"]["startedTotal"] == 0
    for name, pod in before.items():
        assert after[name]["processId"] == pod["processId"]


@pytest.mark.parametrize(
    ("pod", "role", "words"),
    [
        ("sim-9", "decode", "no pod 'sim-9'; pods: sim-0, sim-1, sim-2"),
        ("sim-0", "Decode", "unknown role 'Decode'; allowed: encode, prefill, decode,"),
    ],
)
def test_a_flip_that_makes_no_sense_lists_the_choices(
    shell: Shell, up: Up, pod: str, role: str, words: str
) -> None:
    answer = shell.run("flip", pod, role)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert words in line
    assert shell.status()["rosterVersion"] == 4


def test_a_worker_that_is_killed_is_replaced_and_keeps_its_role(shell: Shell, up: Up) -> None:
    shell.run("flip", "sim-1", "prefill-decode")
    killed = shell.pods()["sim-1"]
    os.kill(killed["processId"], signal.SIGKILL)
    up.until_said("sim-1 was killed by SIGKILL; taken out of the roster; it starts again in")
    up.until_said("sim-1 is ready")
    replaced = shell.pods()["sim-1"]
    assert replaced["ready"]
    assert replaced["restarts"] == 1
    assert replaced["role"] == "prefill-decode"
    assert replaced["processId"] != killed["processId"]
    assert shell.run("chat", "Hi").returncode == 0


def test_a_gateway_that_is_killed_comes_back_at_its_address(shell: Shell, up: Up) -> None:
    before = shell.status()["gateway"]
    os.kill(before["processId"], signal.SIGKILL)
    up.until_said("gateway is ready")
    after = shell.status()["gateway"]
    assert after["url"] == before["url"]
    assert after["processId"] != before["processId"]
    assert shell.run("chat", "Hi").returncode == 0
    assert shell.run("flip", "sim-0", "decode").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_ended_cluster_leaves_no_process_and_no_file(
    shell: Shell, up: Up, number: signal.Signals, picture: str
) -> None:
    assert shell.run("chat", "--image", picture, "Hi").returncode == 0
    family, before = up.family(), set(shell.folder.iterdir())
    assert len(family) == 5
    assert up.end(number) == 0
    assert "stopped: every process has ended" in up.said()
    assert not [process for process in family if is_alive(process)]
    assert before - set(shell.folder.iterdir()) == {shell.state}
    assert set(shell.folder.iterdir()) <= before


def test_an_impatient_user_is_not_kept_waiting(shell: Shell, up: Up) -> None:
    family = up.family()
    for process in family[1:]:
        process.suspend()  # none of them can end when asked
    up.process.send_signal(signal.SIGINT)
    up.until_said("stopping…")
    assert up.end(signal.SIGINT) == 0
    assert not [process for process in family if is_alive(process)]
    assert not shell.state.exists()


def test_a_cluster_that_is_ended_while_it_starts_leaves_nothing(shell: Shell) -> None:
    up = shell.up().until_said("sim-2: starting")
    family = up.family()
    assert up.end() == 130
    assert not [process for process in family if is_alive(process)]
    assert not shell.state.exists()


def test_a_cluster_whose_terminal_is_gone_still_ends_well(shell: Shell) -> None:
    process = shell.start_up(subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert any(b"Ctrl-C ends it." in line for line in process.stdout)
    family = Up(process, shell.folder).family()
    assert len(family) == 5
    process.send_signal(signal.SIGHUP)
    process.wait(timeout=30)
    assert not [process for process in family if is_alive(process)]
    assert not shell.state.exists()


def test_no_process_outlives_an_epd_up_that_is_killed(shell: Shell, up: Up) -> None:
    family = up.family()
    assert len(family) == 5
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: not any(is_alive(process) for process in family))
    assert shell.run("status").returncode == 2
    shell.up().until_said("Ctrl-C ends it.")


def test_no_process_outlives_an_epd_up_that_is_killed_as_it_starts(shell: Shell) -> None:
    up = shell.up().until_said("sim-2: starting")
    family = up.family()
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: not any(is_alive(process) for process in family))


def test_a_second_cluster_of_the_same_name_is_refused(shell: Shell, up: Up) -> None:
    answer = shell.run("up", "-f", "cluster.yaml", "--port", "0")
    assert answer.returncode == 1
    assert f"a cluster already runs from {shell.state}/sim (process {up.process.pid})" in (
        answer.stderr
    )
    assert shell.run("chat", "Hi").returncode == 0


def test_two_clusters_run_side_by_side_and_are_told_apart(shell: Shell, up: Up) -> None:
    shell.manifest.write_text(MANIFEST.replace("name: sim}", "name: other}"))
    shell.up().until_said("Ctrl-C ends it.")
    unclear = shell.run("status")
    assert unclear.returncode == 2
    assert "choose with --cluster NAME; running: other, sim" in unclear.stderr
    chosen = shell.run("status", "--cluster", "other")
    assert "other-0" in chosen.stdout
    assert shell.run("flip", "--cluster", "sim", "sim-0", "decode").returncode == 0


def test_a_worker_that_cannot_start_ends_the_cluster_with_its_last_words(shell: Shell) -> None:
    curves = shell.folder / "curves.yaml"
    curves.write_text("encode: {colour: red}")
    shell.manifest.write_text(
        MANIFEST.replace(
            "type: Simulated", "type: Simulated, simulated: {costCurvesFile: curves.yaml}"
        )
    )
    up = shell.up("--state-dir", "kept")
    assert up.process.wait(timeout=30) == 1
    said = up.said()
    assert "ended with status 2 before it was ready; it said:" in said
    assert "curves.yaml" in said
    assert "Traceback" not in said
    assert list((shell.folder / "kept" / "logs").glob("sim-*.log"))


def test_logs_are_kept_where_the_user_said(shell: Shell) -> None:
    up = shell.up("--state-dir", "kept").until_said("Ctrl-C ends it.")
    assert shell.run("status", "--state-dir", "kept").returncode == 0
    assert up.end() == 0
    kept = shell.folder / "kept"
    names = sorted(path.name for path in (kept / "logs").iterdir())
    assert names == ["gateway.log", "sim-0.log", "sim-1.log", "sim-2.log"]
    assert not (kept / "roster.json").exists()
    assert not (kept / "cluster.json").exists()
