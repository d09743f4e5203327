"""The command line: what it refuses, in one line, and with which exit status."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from epd_cli.__main__ import main

SIMULATED = """
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {name: demo}
spec:
  model: {source: simulated, servedName: simulated}
  engine: {type: Simulated}
  replicas: 3
"""


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def manifest(tmp_path: Path, text: str = SIMULATED) -> str:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    return str(file)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail; return its exit status and its one line."""
    try:
        status = main(arguments)
    except SystemExit as exit_:
        status = int(str(exit_.code))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    return status, captured.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "required: COMMAND"),
        (("bogus",), 2, "invalid choice: 'bogus'"),
        (("up",), 2, "-f/--file"),
        (("up", "-f", "nope.yaml"), 2, "nope.yaml: manifest: cannot be read: No such file"),
        (("up", "-f", "x", "--port", "70000"), 2, "'70000' is no port"),
        (("up", "-f", "x", "--port", "http"), 2, "'http' is no port"),
        (("flip", "demo-0"), 2, "required: ROLE"),
        (("flip", "demo-0", "decode"), 2, "no cluster runs here"),
        (("status",), 2, "no cluster runs here"),
        (("status", "-o", "xml"), 2, "invalid choice: 'xml'"),
        (("fault", "tease", "demo-0"), 2, "invalid choice: 'tease'"),
        (("fault", "freeze", "demo-0", "--for", "-1"), 2, "'-1' is no number of seconds"),
        (("fault", "kill", "demo-0"), 2, "no cluster runs here"),
        (("top", "--once"), 2, "no cluster runs here"),
        (("status", "--cluster", "demo"), 2, "no cluster 'demo' runs here; running: none"),
        (("status", "--state-dir", "nowhere"), 1, "no cluster runs from"),
        (("chat", "hi"), 2, "no cluster runs here"),
        (("chat", "--image", "nope.png", "hi"), 2, "nope.png: No such file"),
        (("chat", "--image", "words.txt", "hi"), 2, "words.txt: not the name of a picture"),
        (("chat", "--max-tokens", "0", "hi"), 2, "'0' is no positive whole number"),
        (("demo", "-f", "nope.yaml"), 2, "nope.yaml: manifest: cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, words: str
) -> None:
    got, line = refused(capsys, *arguments)
    assert words in line
    assert line.startswith("epd")
    assert got == status


def test_every_fault_of_a_manifest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, SIMULATED.replace("replicas: 3", "replicas: none\n  colour: red"))
    assert main(["up", "-f", file]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("spec.")[2].partition(":")[0] for line in lines] == [
        "replicas",
        "colour",
    ]


def test_a_port_in_use_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        status, line = refused(capsys, "up", "-f", manifest(tmp_path), "--port", str(port))
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "--port 0" in line
    assert status == 1
    assert not (tmp_path / "state").exists()


def test_a_missing_local_model_says_what_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    text = SIMULATED.replace("Simulated", "VLLM").replace("source: s", "source: ./models/tiny-s")
    status, line = refused(capsys, "up", "-f", manifest(tmp_path, text), "--port", "0")
    assert "models/tiny-simulated holds no model" in line
    assert "python -m epd_worker.engine.tiny_models models" in line
    assert status == 1


def test_vllm_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    file = manifest(tmp_path, SIMULATED.replace("Simulated", "VLLM"))
    status, line = refused(capsys, "up", "-f", file, "--port", "0")
    assert "make env" in line
    assert status == 1


def test_keys_of_a_secret_are_never_dropped_on_an_open_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, SIMULATED + "  gateway: {apiKeysSecretRef: {name: keys}}\n")
    status, line = refused(capsys, "up", "-f", file, "--host", "0.0.0.0", "--port", "0")
    assert "apiKeysSecretRef" in line
    assert status == 2


@pytest.mark.parametrize("command", ["", "up", "status", "flip", "chat", "demo"])
def test_help_teaches_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"  epd {command}".rstrip() in text.partition("examples:")[2]


def test_a_defect_of_ours_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epd_cli.status.chosen_cluster", lambda options: 1 / 0)
    status, line = refused(capsys, "status")
    assert "a defect of ours, ZeroDivisionError: division by zero" in line
    assert status == 1


def test_an_interrupted_command_says_so_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("epd_cli.status.chosen_cluster", interrupt)
    assert main(["status"]) == 130


def test_the_command_line_is_read_without_heavy_libraries() -> None:
    heavy = ["openai", "httpx", "torch", "vllm", "PIL", "epd_worker", "epd_gateway"]
    script = (
        "import sys, epd_cli.__main__, epd_cli.up, epd_cli.flip, epd_cli.status;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    assert answer.stdout.strip() == "[]"
