"""`kubectl epd` as kubectl runs it, on a real API server."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from kube import binaries
from kube.control_plane import ControlPlane

from epd_cli import kubectl_epd
from epd_cli.kubectl import Kubectl

ROLE, LLM_D_ROLE = "epd.dev/role", "llm-d.ai/role"
CLUSTER = {
    "apiVersion": "epd.dev/v1alpha1",
    "kind": "EPDCluster",
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"source": "none/simulated", "servedName": "simulated"},
        "engine": {"type": "Simulated"},
        "replicas": 3,
    },
}
STATUS = {
    "replicas": 3,
    "roles": [{"name": "Encode", "desired": 1, "ready": 1}],
    "lastDecision": {
        "time": "2026-01-01T00:00:00Z", "reason": "Deadband", "message": "Nothing to gain.",
    },
    "conditions": [
        {
            "type": "Ready", "status": "True", "reason": "AllReady", "message": "All serve.",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
}  # fmt: skip


class User:
    """Somebody with a kubectl on PATH, and the plugin beside it."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.api, self.namespace = plane.api, namespace
        kubectl = binaries.find("kubectl")["kubectl"]
        path = os.pathsep.join([str(kubectl.parent), str(Path(sys.executable).parent)])
        self._environment = {
            **os.environ,
            "PATH": path + os.pathsep + os.environ["PATH"],
            "KUBECONFIG": str(plane.api.kubeconfig),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def epd(self, *arguments: str) -> str:
        """Do in this process what `kubectl epd` does, in the test's namespace; return its words."""
        status, said, complaint = self._in_process(*arguments)
        assert status == 0, complaint
        return said

    def refused(self, *arguments: str) -> str:
        """Return the one line in which a command is refused."""
        status, said, complaint = self._in_process(*arguments)
        assert status in (1, 2), said
        assert complaint.count("\n") == 1
        return complaint

    def _in_process(self, *arguments: str) -> tuple[int, str, str]:
        said, complaint = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self._environment),
            redirect_stdout(said),
            redirect_stderr(complaint),
        ):
            status = kubectl_epd.main([*arguments, "-n", self.namespace])
        return status, said.getvalue(), complaint.getvalue()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.epd(*arguments, "-o", "json"))

    def labels(self, pod: str) -> dict[str, str]:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}"
        labels: dict[str, str] = self.api.call("GET", path)["metadata"]["labels"]
        return labels


def pod(name: str, role: str, **labels: str) -> dict[str, Any]:
    labels = {"epd.dev/cluster": "demo", "app.kubernetes.io/component": "worker", **labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {ROLE: role, LLM_D_ROLE: role, **labels}},
        "spec": {"containers": [{"name": "worker", "image": "worker:1"}]},
    }


@pytest.fixture
def user(epdclusters: ControlPlane, namespace: str) -> User:
    api = epdclusters.api
    items = [CLUSTER, *(pod(f"demo-{i}", r) for i, r in enumerate(("encode", "prefill", "decode")))]
    for item in items:
        api.kubectl("create", "-n", namespace, "-f", "-", manifest=item)
    path = f"/apis/epd.dev/v1alpha1/namespaces/{namespace}/epdclusters/demo/status"
    merge = {"content-type": "application/merge-patch+json"}
    api.call("PATCH", path, {"status": STATUS}, headers=merge)
    return User(epdclusters, namespace)


def test_status_shows_clusters_here_and_everywhere(user: User) -> None:
    done = user.run("epd", "status", "-n", user.namespace)
    assert (done.returncode, done.stderr) == (0, "")
    head, line = done.stdout.splitlines()
    assert head.split()[:3] == ["NAME", "READY", "PODS"]
    assert line.split()[:5] == ["demo", "True", "3/3", "Encode", "1/1"]
    assert f"\n{user.namespace} " in "\n" + user.run("epd", "status", "-A").stdout
    (view,) = user.json("status", "demo")
    assert view["lastDecision"]["reason"] == "Deadband"
    assert yaml.safe_load(user.epd("status", "-o", "yaml")) == user.json("status")
    assert "not found" in user.refused("status", "nobody")


def test_roles_shows_the_worker_pods_of_a_cluster(user: User) -> None:
    roles = {view["name"]: view["role"] for view in user.json("roles", "demo")}
    assert roles == {"demo-0": "encode", "demo-1": "prefill", "demo-2": "decode"}
    assert len(user.epd("roles").splitlines()) == 4
    assert user.json("roles", "other") == []


def test_every_command_that_shows_something_speaks_yaml_and_json(user: User) -> None:
    for words in (("status",), ("roles",), ("explain", "demo"), ("flip", "demo-0", "encode")):
        assert yaml.safe_load(user.epd(*words, "-o", "yaml")) == user.json(*words)
    everywhere = json.loads(user.run("epd", "roles", "-A", "-o", "json").stdout)
    ours = [view["name"] for view in everywhere if view["namespace"] == user.namespace]
    assert ours == ["demo-0", "demo-1", "demo-2"]


def test_flip_sets_both_labels_and_nothing_else(user: User) -> None:
    before = user.labels("demo-1")
    done = user.json("flip", "demo-1", "encode-prefill")
    assert (done["from"], done["to"]) == ("prefill", "encode-prefill")
    after = user.labels("demo-1")
    assert after == before | {ROLE: "encode-prefill", LLM_D_ROLE: "encode-prefill"}
    said = user.epd("flip", "demo-2", "prefill")
    assert "decode → prefill" in said
    assert "no pod is offered decode now" in said
    assert "already prefill" in user.epd("flip", "demo-2", "prefill")


def test_a_flip_of_a_pod_that_changed_meanwhile_is_not_made(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PATH", "KUBECONFIG"):
        monkeypatch.setenv(name, user._environment[name])
    look: Callable[..., dict[str, Any]] = Kubectl.get

    def look_and_be_late(kubectl: Kubectl, kind: str, name: str) -> dict[str, Any]:
        seen = look(kubectl, kind, name)
        user.api.kubectl("label", "-n", user.namespace, "pod", name, f"{ROLE}=decode",
                         "--overwrite")  # fmt: skip
        return seen

    monkeypatch.setattr(Kubectl, "get", look_and_be_late)
    assert kubectl_epd.main(["flip", "demo-0", "prefill", "-n", user.namespace]) == 1
    assert "changed in the meantime" in capsys.readouterr().err
    assert user.labels("demo-0")[ROLE] == "decode"


def test_what_is_no_worker_cannot_be_flipped(user: User) -> None:
    stranger = pod("stranger", "decode", **{"app.kubernetes.io/component": "gateway"})
    user.api.kubectl("create", "-n", user.namespace, "-f", "-", manifest=stranger)
    assert "is no worker pod" in user.refused("flip", "stranger", "prefill")
    assert "not found" in user.refused("flip", "nobody", "prefill")
    assert user.labels("stranger")[ROLE] == "decode"


def test_explain_tells_the_last_decision_and_what_happened(user: User) -> None:
    cluster = json.loads(user.api.kubectl("get", "epd", "demo", "-n", user.namespace, "-o", "json"))
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "demo.1"}, "type": "Normal",
        "reason": "RoleChanged", "message": "demo-0 moved", "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {
            "kind": "EPDCluster", "apiVersion": "epd.dev/v1alpha1", "name": "demo",
            "namespace": user.namespace, "uid": cluster["metadata"]["uid"],
        },
    }  # fmt: skip
    user.api.kubectl("create", "-n", user.namespace, "-f", "-", manifest=event)
    text = user.epd("explain", "demo")
    assert "Deadband\n  Nothing to gain." in text
    assert "RoleChanged: demo-0 moved" in text
    assert user.json("explain", "demo")["events"] == [
        {"reason": "RoleChanged", "message": "demo-0 moved"}
    ]


def test_a_plan_says_in_one_line_what_it_lacks(user: User) -> None:
    nowhere = ("--prometheus", "http://127.0.0.1:1")
    assert "name a Prometheus that scrapes it" in user.refused("plan", "demo")
    assert "cannot be asked" in user.refused("plan", "demo", *nowhere)
    assert "not found" in user.refused("plan", "nobody", *nowhere)
    real = json.loads(json.dumps(CLUSTER))
    real["metadata"]["name"], real["spec"]["engine"]["type"] = "real", "VLLM"
    user.api.kubectl("create", "-n", user.namespace, "-f", "-", manifest=real)
    assert "give --curves FILE" in user.refused("plan", "real", *nowhere)


def test_logs_are_those_of_kubectl(user: User) -> None:
    # Nothing runs here; that kubectl looked for the right pods shows in what it does not find.
    done = user.run("epd", "logs", "demo", "--role", "encode-decode", "-n", user.namespace)
    assert "No resources found" in done.stderr
    bound = pod("bound", "encode")
    bound["spec"]["nodeName"] = "nowhere"
    user.api.kubectl("create", "-n", user.namespace, "-f", "-", manifest=bound)
    done = user.run("epd", "logs", "demo", "--role", "encode", "-n", user.namespace)
    assert "nowhere" in done.stderr


def test_tab_completes_names_of_the_cluster(user: User) -> None:
    done = user.run("__complete", "epd", "flip", "-n", user.namespace, "demo-")
    assert done.stdout.split()[:3] == ["demo-0", "demo-1", "demo-2"]
    done = user.run("__complete", "epd", "flip", "-n", user.namespace, "demo-0", "encode-p")
    assert done.stdout.split()[0] == "encode-prefill"
    done = user.run("__complete", "epd", "explain", "-n", user.namespace, "")
    assert done.stdout.split()[0] == "demo"
    done = user.run("__complete", "epd", "status", "-o", "")
    assert done.stdout.split()[:3] == ["table", "json", "yaml"]
    done = user.run("__complete", "epd", "fl")
    assert done.stdout.split() == ["flip", ":4"]
