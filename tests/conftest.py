"""What holds for every test: markers by folder, skips with a reason, and no wall clock."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

pytest_plugins = ["kube_bed"]

TESTS = Path(__file__).parent
# Generous: they end a test that hangs, and say nothing about speed. An engine starts in 20 s or 60.
TIMEOUT_S = {"integration": 180, "e2e": 600}
VLLM_TIMEOUT_S = 600
# A whole node of Kubernetes keeps a core busy: what needs one shares one, and comes first.
ON_A_NODE = (
    "test_operator_on_a_node",
    "test_operator_on_a_node_vllm",
    "test_elastic_on_a_node",
    "test_one_node",
    "test_demo_kubernetes",
)

# A slow machine is no failure, and CI must see the same examples at every run.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, limit them, skip what needs vLLM where it is not installed."""
    items.sort(key=lambda item: item.path.stem not in ON_A_NODE)
    without_vllm = importlib.util.find_spec("vllm") is None
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        needs_vllm = item.get_closest_marker("vllm") is not None
        if folder in TIMEOUT_S:
            item.add_marker(folder)
        if needs_vllm:
            # vLLM, torch and transformers warn as they like, in a test's own process, too.
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::epd"))
        if needs_vllm and without_vllm:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed (`make env LIGHT=1`)"))
        if item.get_closest_marker("timeout") is None and (needs_vllm or folder in TIMEOUT_S):
            limit_s = max(VLLM_TIMEOUT_S * needs_vllm, TIMEOUT_S.get(folder, 0))
            item.add_marker(pytest.mark.timeout(limit_s))


class FilesInTurn(LoadFileScheduling):
    """Tests of a file stay together, and so do all files that need a node."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "node" if Path(file).stem in ON_A_NODE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Say how tests are dealt out where files run side by side."""
    return FilesInTurn(config, log) if config.getvalue("dist") == "loadfile" else None
