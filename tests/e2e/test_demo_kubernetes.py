"""`make demo` on a real node: it ends by itself, and every claim it prints is checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kube.binaries import UnavailableError
from kube.node import Node

ROOT = Path(__file__).parents[2]
DEMO = ("hack/demo_kubernetes.py", "-f", "examples/simulated.yaml")
END = re.compile(r"^nothing lost: (\d+) streams, 4 flips, 0 errors, 0 restarts$", re.MULTILINE)


def run(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *DEMO, *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=500,
        env={**os.environ, **environment},
    )


@pytest.mark.timeout(540)
def test_the_demo_runs_on_a_node_of_this_machine(one_node: Node) -> None:
    """`one_node` says whether there can be one; the demo boots its own."""
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    end = END.search(done.stdout)
    assert end, done.stdout
    assert int(end[1]) >= 8
    assert "kubectl epd top simulated -n demo\n" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "1 image, streamed" in line)
    cells = re.split(r"\s{2,}", row.strip())
    assert cells[1:4] == ["simulated-0", "simulated-1", "simulated-2"]


@pytest.mark.timeout(540)
def test_the_demo_runs_on_a_users_cluster_and_leaves_nothing_but_the_kind() -> None:
    try:
        bed = Node()
    except UnavailableError as error:
        pytest.skip(str(error))
    with bed as node:
        before = node.api.kubectl("get", "namespaces,persistentvolumes", "-o", "name")
        done = run("--mine", KUBECONFIG=str(node.api.kubeconfig))
        assert done.returncode == 0, done.stdout + done.stderr
        assert END.search(done.stdout), done.stdout
        assert node.api.kubectl("get", "namespaces,persistentvolumes", "-o", "name") == before
        assert "No resources found" not in node.api.kubectl("get", "crd", "epdclusters.epd.dev")
        node.api.kubectl("create", "namespace", "demo")
        refused = run("--mine", KUBECONFIG=str(node.api.kubeconfig))
        assert "there is a namespace demo already" in refused.stderr
        node.api.kubectl("get", "namespace", "demo")


def test_a_users_cluster_that_is_not_named_or_not_there_is_told_in_one_line() -> None:
    for kubeconfig, what in (("", "needs KUBECONFIG"), ("/none", "KUBECONFIG=/none")):
        done = run("--mine", KUBECONFIG=kubeconfig)
        assert done.returncode == 1
        assert re.fullmatch(rf"demo: error: .*{what}.*\n", done.stderr)


@pytest.mark.timeout(150)
def test_without_a_node_the_cluster_runs_as_processes() -> None:
    code = (
        "import sys; sys.path[:0] = ['hack']; sys.argv = ['demo', *sys.argv[1:]]\n"
        "import demo_kubernetes as demo\n"
        "def none(): raise demo.UnavailableError('a node of ours needs root')\n"
        "demo.Node = none; sys.exit(demo.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *DEMO[1:]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("no Kubernetes on this machine (a node of ours needs root)")
    assert "nothing lost" in done.stdout
