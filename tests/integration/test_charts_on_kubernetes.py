"""The charts on a real API server, by the real Helm library, as a user installs and keeps them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from charts import CRDS, EVERYTHING, OPERATOR, VARIANTS, manifests
from kube.api import Api, wait_until
from kube.binaries import ARCHIVES_FOLDER, UnavailableError, find
from kube.control_plane import ControlPlane

KUBERNETES = [f"1.{minor}" for minor in range(28, 38)]
FOREIGN = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
MADE = {
    "pods": 3, "deployments": 1, "services": 1, "secrets": 1, "serviceaccounts": 1, "roles": 1,
    "rolebindings": 1, "poddisruptionbudgets": 2, "networkpolicies": 2,
}  # fmt: skip
NO_PORTS = ("--liveness-port=0", "--metrics-port=0")
FOREIGN_CRDS = sorted((ARCHIVES_FOLDER / "crds").glob("monitoring.coreos.com_*.yaml"))
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/epdclusters.epd.dev"
CLUSTER: dict[str, Any] = {
    "apiVersion": "epd.dev/v1alpha1",
    "kind": "EPDCluster",
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"source": "none/simulated", "servedName": "simulated"},
        "engine": {"type": "Simulated"},
        "replicas": 3,
    },
}


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid_in_every_kubernetes_we_support(version: str) -> None:
    for values in VARIANTS.values():
        for manifest in manifests(OPERATOR, values):
            if manifest["kind"] not in FOREIGN:
                kubernetes_validate.validate(manifest, version, strict=True)
    for manifest in manifests(CRDS, {"annotations": {"a": "b"}}):
        kubernetes_validate.validate(manifest, version, strict=True)


def panels() -> dict[str, Any]:
    """Return the expressions of all dashboards as rules, with a time for Grafana's own."""
    targets = [
        target["expr"].replace("$__rate_interval", "5m")
        for path in sorted((OPERATOR / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])  # a row of panels has none
    ]
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(targets)]
    return {"groups": [{"name": "panels", "rules": rules}]}


def test_prometheus_understands_alerts_and_dashboards(tmp_path: Path) -> None:
    try:
        promtool = find("promtool")["promtool"]
    except UnavailableError as error:
        pytest.skip(f"no promtool here: {error}")
    dashboards = tmp_path / "dashboards.yaml"
    dashboards.write_text(yaml.safe_dump(panels()))
    rules = sorted((OPERATOR / "rules").glob("*.yaml"))
    assert rules
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", *rules, dashboards],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """Return an API server where Helm alone makes definitions."""
    try:
        plane = ControlPlane()
    except UnavailableError as error:
        pytest.skip(f"no Kubernetes here: {error}")
    with plane:
        yield plane.api


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """Return a namespace where nothing but `restricted` pods may run."""
    name = api.create_namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"})
    yield name
    api.delete_namespace(name)


@contextmanager
def releases(api: Api, namespace: str) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=str(api.kubeconfig), namespace=namespace) as config:
        yield config


@pytest.fixture
def definitions(api: Api) -> None:
    """Have the chart of definitions installed, as the first of the two."""
    with releases(api, "default") as config:
        if not config.list():
            config.install(str(CRDS), "epd-crds", {})
    api.kubectl("wait", "--for=condition=Established", "crd/epdclusters.epd.dev")


def copy_of(chart: Path, folder: Path, version: str) -> Path:
    """Return the same chart as another version."""
    copied = folder / f"{chart.name}-{version}"
    shutil.copytree(chart, copied)
    about = copied / "Chart.yaml"
    about.write_text(about.read_text().replace("version: 0.1.0", f"version: {version}", 1))
    return copied


def test_definitions_are_upgraded_and_outlive_their_release_with_all_clusters(
    api: Api, namespace: str, definitions: None, tmp_path: Path
) -> None:
    api.kubectl("apply", "-f", "-", "-n", namespace, manifest=CLUSTER)
    newer = copy_of(CRDS, tmp_path, "0.2.0")
    template = newer / "templates" / "epd.dev_epdclusters.yaml"
    template.write_text(template.read_text().replace("What the user wants.", "Newer words.", 1))
    with releases(api, "default") as config:
        config.upgrade(str(newer), "epd-crds", {})
        assert "Newer words." in json.dumps(api.call("GET", CRD))
        config.uninstall("epd-crds")
        assert api.kubectl("get", "epd", "demo", "-n", namespace, "-o", "name")
        config.install(str(CRDS), "epd-crds", {})
    assert "Newer words." not in json.dumps(api.call("GET", CRD))
    assert api.kubectl("get", "epd", "demo", "-n", namespace, "-o", "name")


def replicas_of(api: Api, namespace: str) -> int:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/epd-operator"
    return int(api.call("GET", path)["spec"]["replicas"])


def test_the_operator_is_installed_upgraded_rolled_back_and_uninstalled(
    api: Api, namespace: str, definitions: None, tmp_path: Path
) -> None:
    values = dict(EVERYTHING)
    for path in FOREIGN_CRDS:
        api.kubectl("apply", "--server-side", "-f", path)
    if FOREIGN_CRDS:
        api.kubectl("wait", "--for=condition=Established", "crd", "--all")
    else:
        del values["metrics"]
    with releases(api, namespace) as config:
        config.install(str(copy_of(OPERATOR, tmp_path, "0.0.9")), "epd", {})
        assert replicas_of(api, namespace) == 2
        pods = f"/api/v1/namespaces/{namespace}/pods"
        # Refused by `restricted`, there would be none.
        wait_until(lambda: len(api.call("GET", pods)["items"]) == 2, "the operator has no pods")
        config.upgrade(str(OPERATOR), "epd", {**values, "replicas": 3})
        assert replicas_of(api, namespace) == 3
        config.rollback("epd", version=1)
        assert replicas_of(api, namespace) == 2
        config.uninstall("epd")
    selector = "app.kubernetes.io/instance=epd,app.kubernetes.io/managed-by=Helm"
    kinds = "deployments,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies"
    kinds += ",configmaps,services,clusterroles,clusterrolebindings"
    left = api.kubectl("get", kinds, "-n", namespace, "-l", selector, "-o", "name")
    assert [name for name in left.split() if namespace in name or "cluster" not in name] == []


@contextmanager
def operator(api: Api, namespace: str, log: Path) -> Iterator[None]:
    """Run the operator as its Deployment would, with the rights of its ServiceAccount alone."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/epd-operator"
    spec = api.call("GET", path)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    said = {"$(POD_NAMESPACE)": namespace, "$(POD_NAME)": "operator-0"}
    arguments = []
    for argument in container["args"]:
        for name, value in said.items():
            argument = argument.replace(name, value)
        arguments.append(argument)
    kubeconfig = api.account_kubeconfig(namespace, spec["serviceAccountName"])
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "epd_operator", *arguments, *NO_PORTS],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=file,
            stderr=file,
        )
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.parametrize("wide", [True, False], ids=["cluster-wide", "namespaced"])
def test_the_rights_that_are_installed_are_enough_and_no_more(
    api: Api, namespace: str, definitions: None, tmp_path: Path, wide: bool
) -> None:
    where = api.create_namespace()
    values = {} if wide else VARIANTS["namespaced"] | {"watch": {"namespaces": [where]}}
    log = tmp_path / "operator.log"
    with releases(api, namespace) as config:
        config.install(str(OPERATOR), "epd", values)
        api.kubectl("apply", "-f", "-", "-n", where, manifest=CLUSTER)
        try:
            with operator(api, namespace, log):
                for kind, count in MADE.items():
                    wait_until(
                        partial(has_made, api, where, kind, count), f"no {kind} was made; see {log}"
                    )
                api.kubectl("delete", "epd", "demo", "-n", where, "--timeout=60s")
            # An earlier test's namespace may be on its way out: nobody may write there.
            said = [line for line in log.read_text().splitlines() if "forbidden" in line.lower()]
            assert [line for line in said if "being terminated" not in line] == []
            account = f"system:serviceaccount:{namespace}:epd-operator"
            elsewhere = "default" if not wide else where
            for asked in ("delete nodes", "create pods --subresource=exec", "list secrets"):
                question = ("auth", "can-i", *asked.split(), f"--as={account}", "-n", elsewhere)
                assert can(api, *question) == "no", asked
            listing = ("auth", "can-i", "list", "pods", f"--as={account}", "-n", "default")
            assert can(api, *listing) == ("yes" if wide else "no")
        finally:
            config.uninstall("epd")
            api.delete_namespace(where)


def has_made(api: Api, namespace: str, kind: str, count: int) -> bool:
    """Tell whether the operator has made so many objects of a kind."""
    asked = ("get", kind, "-n", namespace, "-l", "epd.dev/cluster=demo", "-o", "name")
    return len(api.kubectl(*asked).split()) >= count


def can(api: Api, *arguments: str) -> str:
    """Return the answer of `kubectl auth can-i`, which ends with 1 for a no."""
    try:
        return api.kubectl(*arguments).strip()
    except AssertionError as error:
        return "no" if not str(error).strip() or "no" in str(error) else str(error)


def test_a_cluster_that_is_bad_is_refused_by_the_server_with_the_name_of_the_field(
    api: Api, namespace: str, definitions: None
) -> None:
    bad = yaml.safe_load(yaml.safe_dump(CLUSTER))
    bad["spec"]["replicas"] = 0
    with pytest.raises(AssertionError, match=r"spec\.replicas"):
        api.kubectl("apply", "-f", "-", "-n", namespace, manifest=bad)
