"""The real node that whole clusters are tested on: what it must do for them, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kube import host_environment
from kube.api import KubectlError, wait_until
from kube.node import Node
from kube.node_files import SHELL_IMAGE

HACK = Path(__file__).parents[2] / "hack"
NOBODY = 65534

HOLDER = """\
import sys, time
from kube.node import Node
with Node() as node:
    print(node.folder, flush=True)
    time.sleep(3600)
"""


def pod(name: str, *command: str, **container: Any) -> dict[str, Any]:
    """Return a pod that meets the restricted standard and has our environment in it."""
    template = host_environment.pod_template("main")["spec"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            **template,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": NOBODY,
                "runAsGroup": NOBODY,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    **template["containers"][0],
                    "image": SHELL_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": list(command),
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    **container,
                }
            ],
        },
    }


def service(name: str, port: int) -> dict[str, Any]:
    """Return a Service in front of the pod of that name."""
    ports = [{"port": port}]
    spec = {"selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def text_at(url: str) -> str:
    """Return what is served there; nothing where nobody answers."""
    try:
        return httpx.get(url, trust_env=False).text
    except httpx.TransportError:
        return ""


def apply(node: Node, namespace: str, *manifests: dict[str, Any]) -> None:
    """Apply manifests in a namespace."""
    items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    node.api.kubectl("apply", "-n", namespace, "-f", "-", manifest=items)


def test_our_worker_serves_in_a_restricted_pod_behind_a_service(
    one_node: Node, node_namespace: str
) -> None:
    command = ("epd-worker", "--name=worker", "--engine=simulated", "--served-name=tiny")
    listen = ("--listen=0.0.0.0:7000", "--side-channel-host=$(POD_IP)")
    admin = ("--metrics-listen=0.0.0.0:7001", "--health-listen=0.0.0.0:7004")
    probe = {"httpGet": {"path": "/ready", "port": 7004}, "periodSeconds": 1}
    worker = pod("worker", *command, *listen, *admin, readinessProbe=probe)
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    worker["spec"]["containers"][0]["env"].append(address)
    apply(one_node, node_namespace, worker, service("worker", 7001))
    where = ("pod/worker", "-n", node_namespace)
    one_node.api.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *where)
    found = json.loads(
        one_node.api.kubectl("get", "service", "worker", "-n", node_namespace, "-o", "json")
    )
    port = one_node.forward(found["spec"]["clusterIP"], 7001)
    # kube-proxy learns of a ready pod a moment after everybody else.
    wait_until(lambda: "epd_" in text_at(f"http://127.0.0.1:{port}/metrics"), "no metrics")
    one_node.api.kubectl("delete", *where)


def test_a_pod_that_does_not_meet_the_standard_is_refused(
    one_node: Node, node_namespace: str
) -> None:
    plain = pod("plain", "true")
    del plain["spec"]["securityContext"]
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        apply(one_node, node_namespace, plain)


def test_an_image_volume_brings_the_files_of_an_image(one_node: Node, node_namespace: str) -> None:
    one_node.load_image("epd.local/model:1", {"config.json": '{"made": "here"}'})
    reader = pod("reader", "cat", "/model/config.json")
    image = {"reference": "epd.local/model:1", "pullPolicy": "IfNotPresent"}
    reader["spec"]["volumes"].append({"name": "model", "image": image})
    mounts = reader["spec"]["containers"][0]["volumeMounts"]
    mounts.append({"name": "model", "mountPath": "/model", "readOnly": True})
    reader["spec"]["restartPolicy"] = "Never"
    apply(one_node, node_namespace, reader)
    where = ("pod/reader", "-n", node_namespace)
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    one_node.api.kubectl("wait", ended, "--timeout=120s", *where)
    assert one_node.api.kubectl("logs", *where) == '{"made": "here"}'


def test_pods_outlive_the_node_agent_and_the_api_server(
    one_node: Node, node_namespace: str
) -> None:
    apply(one_node, node_namespace, pod("sleeper", "sleep", "1000"))
    where = ("pod/sleeper", "-n", node_namespace)
    one_node.api.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *where)
    one_node.crash("kubelet")
    with one_node.without("kube-apiserver"):
        assert not one_node.api.is_ready()
    wait_until(one_node.api.is_ready, "the API server did not come back")
    with one_node.frozen("kube-apiserver"):
        assert not one_node.api.is_ready()
    wait_until(one_node.api.is_ready, "the API server did not go on")
    wait_until(lambda: one_node.process_of("kubelet"), "the kubelet did not come back")
    assert "uid=65534" in one_node.api.kubectl("exec", *where, "--", "id")
    restarts = "-o=jsonpath={.status.containerStatuses[0].restartCount}"
    assert one_node.api.kubectl("get", *where, restarts) == "0"


def test_a_node_ends_with_a_process_that_is_killed(one_node: Node) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "PYTHONPATH": str(HACK)},
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        started = psutil.Process(holder.pid).children(recursive=True)
        plan = json.loads((folder / "plan.json").read_text())
        cgroups = [Path(each["folder"]) for each in plan["cgroups"]]
        assert any((cgroup / "kubepods").is_dir() for cgroup in cgroups)
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(child.is_running() for child in started), "still running")
    wait_until(lambda: not folder.exists(), "files are left")
    wait_until(lambda: not any(cgroup.exists() for cgroup in cgroups), "cgroups are left")
    assert str(folder) not in Path("/proc/mounts").read_text()
