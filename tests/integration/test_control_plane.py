"""The control plane that other tests stand on: real, and gone with whoever started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from kube.api import KubectlError, wait_until
from kube.control_plane import ControlPlane

HACK = Path(__file__).parents[2] / "hack"
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
HOLDER = """\
import sys, time
from kube.control_plane import ControlPlane
with ControlPlane() as plane:
    print(plane.folder, flush=True)
    time.sleep(3600)
"""


def test_a_pod_is_admitted_and_stays_pending_for_there_is_no_node(
    control_plane: ControlPlane, namespace: str
) -> None:
    api = control_plane.api
    api.kubectl("run", "lonely", "--image=none", "-n", namespace)
    phase = api.kubectl("get", "pod", "lonely", "-n", namespace, "-o", "jsonpath={.status.phase}")
    assert phase == "Pending"


def test_an_account_may_do_what_its_rules_say_and_nothing_else(
    control_plane: ControlPlane, namespace: str
) -> None:
    api = control_plane.api
    config = api.service_account(namespace, "reader", rules=[PODS])
    as_reader = (f"--kubeconfig={config}", "-n", namespace)
    assert api.kubectl("get", "pods", "-o", "name", *as_reader) == ""
    with pytest.raises(KubectlError, match="forbidden"):
        api.kubectl("get", "secrets", *as_reader)
    with pytest.raises(KubectlError, match="forbidden"):
        api.kubectl("get", "pods", "-A", *as_reader[:1])


def test_the_restricted_standard_is_enforced(control_plane: ControlPlane) -> None:
    api = control_plane.api
    name = api.create_namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"})
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        api.kubectl("run", "plain", "--image=none", "-n", name)
    api.delete_namespace(name)


def test_a_crashed_api_server_comes_back_with_its_data(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.crash_api_server()
    assert not control_plane.api.is_ready()
    control_plane.restart_api_server()
    assert namespace in control_plane.api.kubectl("get", "namespaces", "-o", "name")


def test_a_frozen_api_server_answers_nobody_until_it_is_thawed(
    control_plane: ControlPlane,
) -> None:
    with control_plane.frozen_api_server(), pytest.raises(httpx.TimeoutException):
        control_plane.api.client.get("/readyz", timeout=0.5)
    wait_until(control_plane.api.is_ready, "not ready")


def test_a_control_plane_ends_with_a_process_that_is_killed(control_plane: ControlPlane) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "PYTHONPATH": str(HACK)},
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        started = psutil.Process(holder.pid).children(recursive=True)
        programs = {Path(child.cmdline()[0]).name for child in started}
        assert {"etcd", "kube-apiserver", "kube-scheduler"} <= programs
        assert folder.is_dir()
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(child.is_running() for child in started), "still running")
    wait_until(lambda: not folder.exists(), "files are left")
