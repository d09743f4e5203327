"""Command lines made from a manifest, GPUs dealt out, free ports found."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from epd.api import EPDCluster, parse_cluster
from epd_operator.local_commands import (
    GpuShare,
    gateway_launch,
    gpu_shares,
    local_folder,
    pod_names,
    worker_launch,
)
from epd_operator.local_ports import (
    BLOCK_PORTS,
    FIRST_PORT,
    LAST_PORT,
    WorkerPorts,
    free_block,
    is_free,
    release,
)
from epd_operator.local_process import how_it_ended, last_lines
from epd_operator.local_state import LocalError

PORTS = WorkerPorts(grpc=20000, metrics=20001, kv=20002, ec=20018)


def cluster(engine: str = "{type: Simulated}", replicas: int = 3, more: str = "") -> EPDCluster:
    return parse_cluster(
        f"""
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {{name: demo}}
spec:
  model: {{source: some/model, servedName: served{more}}}
  engine: {engine}
  replicas: {replicas}
  method: Auto
"""
    )


def flags(command: tuple[str, ...]) -> dict[str, str]:
    return dict(itertools.pairwise(command))


def test_all_workers_are_alike_but_for_name_and_ports() -> None:
    demo = cluster()
    names = pod_names(demo)
    assert names == ["demo-0", "demo-1", "demo-2"]
    first, *others = (worker_launch(demo, name, PORTS).command for name in names)
    for name, other in zip(names[1:], others, strict=True):
        assert [name if word == "demo-0" else word for word in first] == list(other)


def test_a_simulated_worker_is_told_no_model_folder() -> None:
    command = worker_launch(cluster(), "demo-0", PORTS).command
    assert flags(command)["--engine"] == "simulated"
    assert flags(command)["--listen"] == "127.0.0.1:20000"
    assert "--exit-with-parent" in command
    assert "--model" not in command


def test_cost_curves_of_the_manifest_reach_the_worker() -> None:
    demo = cluster("{type: Simulated, simulated: {costCurvesFile: curves.yaml}}")
    command = worker_launch(demo, "demo-0", PORTS).command
    assert flags(command)["--cost-curves"] == "curves.yaml"


def test_engine_arguments_come_after_a_lone_dash_dash() -> None:
    demo = cluster("{type: VLLM, args: [--max-model-len=2048]}", more=", revision: v1")
    command = worker_launch(demo, "demo-0", PORTS).command
    own, engine = command[: command.index("--")], command[command.index("--") + 1 :]
    assert flags(own)["--model"] == "some/model"
    assert flags(own)["--transport"] == "Auto"
    assert flags(own)["--kv-side-channel-port"] == "20002"
    assert flags(own)["--ec-side-channel-port"] == "20018"
    assert engine == ("--max-model-len=2048", "--revision", "v1")


def test_the_gateway_is_told_where_to_listen_and_what_to_follow() -> None:
    command = gateway_launch(cluster(), "127.0.0.1:8000", "127.0.0.1:8001", Path("/r")).command
    assert flags(command)["--listen"] == "127.0.0.1:8000"
    assert flags(command)["--admin-listen"] == "127.0.0.1:8001"
    assert flags(command)["--roster-file"] == "/r"


@pytest.mark.parametrize(
    ("gpus", "args", "expected"),
    [
        pytest.param([], "", [((), 1)] * 4, id="a machine without GPUs"),
        pytest.param(["0"], "", [(("0",), 4)] * 4, id="all on one"),
        pytest.param(["0", "1"], "", [(("0",), 2), (("1",), 2)] * 2, id="two on each"),
        pytest.param(
            ["4", "5", "6", "7"], "", [((g,), 1) for g in "4567"], id="one each, by their names"
        ),
        pytest.param(
            ["0", "1", "2"],
            "",
            [(("0",), 2), (("1",), 1), (("2",), 1), (("0",), 2)],
            id="a remainder",
        ),
        pytest.param(
            ["0", "1", "2", "3"],
            "--tensor-parallel-size=2",
            [(("0", "1"), 2), (("2", "3"), 2)] * 2,
            id="pairs",
        ),
    ],
)
def test_gpus_are_dealt_out_evenly(
    gpus: list[str], args: str, expected: list[tuple[tuple[str, ...], int]]
) -> None:
    spec = cluster(f"{{type: VLLM, args: [{args}]}}", replicas=4).spec
    assert [(share.gpus, share.sharers) for share in gpu_shares(spec, gpus)] == expected


def test_a_simulated_engine_takes_no_gpu() -> None:
    assert gpu_shares(cluster().spec, ["0"]) == [GpuShare()] * 3


def test_workers_on_one_gpu_share_its_memory() -> None:
    launch = worker_launch(cluster("{type: VLLM}"), "demo-0", PORTS, GpuShare(("2",), 3))
    assert launch.command[-1] == "--gpu-memory-utilization=0.30"
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": "2"}


def test_a_memory_flag_of_the_user_stays_as_it_is() -> None:
    demo = cluster("{type: VLLM, args: [--kv_cache_memory_bytes=1000]}")
    launch = worker_launch(demo, "demo-0", PORTS, GpuShare(("0",), 3))
    assert launch.command[-1] == "--kv_cache_memory_bytes=1000"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", None),
        ("gpt2", None),
        ("build/models/tiny", Path("build/models/tiny")),
        ("./model", Path("model")),
        ("/models/x", Path("/models/x")),
    ],
)
def test_a_hub_name_is_told_from_a_folder(source: str, expected: Path | None) -> None:
    assert local_folder(source) == expected


def test_a_folder_that_is_there_wins_over_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder("org/model") == Path("org/model")


def test_a_block_of_ports_holds_no_taken_one() -> None:
    taken = set(range(FIRST_PORT, LAST_PORT, 7))
    with pytest.raises(LocalError, match="no 8 free ports in a row"):
        free_block(8, "127.0.0.1", lambda port, _: port not in taken)
    first = free_block(5, "127.0.0.1", lambda port, _: port not in taken)
    assert taken.isdisjoint(range(first, first + 5))


def test_ports_that_are_lent_out_are_lent_to_nobody_else() -> None:
    look = "from epd_operator import local_ports as p; print(p._claim({}, 1))"
    first = free_block(BLOCK_PORTS, "127.0.0.1", lambda *_: True)
    others = [free_block(BLOCK_PORTS, "127.0.0.1", lambda *_: True) for _ in range(100)]
    assert first not in others

    def another_process_may_have(port: int) -> bool:
        command = [sys.executable, "-c", look.format(port)]
        return subprocess.run(command, capture_output=True, text=True).stdout == "True\n"

    assert not another_process_may_have(first + BLOCK_PORTS - 1)
    for block in (first, *others):
        release(block, BLOCK_PORTS)
    assert another_process_may_have(first + BLOCK_PORTS - 1)


def test_a_port_in_use_is_not_free() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port, "127.0.0.1")
    assert is_free(port, "127.0.0.1")


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with status 0"), (3, "ended with status 3"), (-9, "was killed by SIGKILL")],
)
def test_an_exit_status_is_put_into_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_the_last_lines_of_a_log_are_those_that_say_something(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\n\ntwo  \n\n three\n\n")
    assert last_lines(log, 2) == ["two", " three"]
    assert last_lines(tmp_path / "absent.log", 2) == []


def test_what_a_process_has_claimed_it_gives_back_at_its_end():
    script = (
        "from epd_operator import local_ports\n"
        "local_ports.free_block(1, '127.0.0.1', lambda *_: True)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
