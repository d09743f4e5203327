"""What a manifest says of the model reaches vLLM itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from epd.api import parse_cluster
from epd_operator.local_commands import worker_launch
from epd_operator.local_ports import WorkerPorts
from epd_worker.engine.vllm_runtime import hub_commit

pytestmark = pytest.mark.vllm

MANIFEST = """
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {name: demo}
spec:
  model: {source: some/model, servedName: served, revision: 1a2b3c}
  engine: {type: VLLM, args: [--max-model-len=2048]}
  replicas: 3
  method: Auto
"""

# The worker's own way from its command line to vLLM's arguments; the model itself is not fetched.
PROGRAM = """
import sys
from vllm.engine.arg_utils import AsyncEngineArgs
from epd_worker.engine.vllm_runtime import _parse
from epd_worker.settings import parse_arguments

parsed = _parse(parse_arguments(sys.argv[1:]).engine)
arguments = AsyncEngineArgs.from_cli_args(parsed)
print(arguments.model, arguments.revision, arguments.max_model_len)
"""


def test_the_models_revision_and_the_engines_arguments_reach_vllm() -> None:
    launch = worker_launch(parse_cluster(MANIFEST), "demo-0", WorkerPorts.from_block(20000))
    own = launch.command[launch.command.index("epd_worker") + 1 :]
    # Another test of this process may have told the hub's library to stay off the network.
    environment = {name: text for name, text in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", PROGRAM, *own]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "some/model 1a2b3c 2048"


def test_a_branch_of_the_hub_that_moved_is_another_model(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (repository / "refs" / "main").write_text(commit)
        assert hub_commit("org/name", None, tmp_path) == commit
        assert hub_commit("org/name", "main", tmp_path) == commit
    assert hub_commit(str(tmp_path), None, tmp_path) is None
