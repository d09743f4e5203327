"""The charts: lint, what they render, and what their schemas refuse."""

import json
import re
import subprocess
import sys
from pathlib import Path

import helm_python as helm
import pytest
import yaml
from charts import CRDS, EVERYTHING, OPERATOR, VARIANTS, manifests, only, rendered

from epd import telemetry
from epd.api.crd import crd_text
from epd_operator.settings import parse_arguments

ROOT = Path(__file__).parents[2]
SERIES = re.compile(r"\bepd_(?!dev_)\w+")


@pytest.mark.parametrize("chart", [OPERATOR, CRDS], ids=lambda chart: chart.name)
def test_helm_finds_no_fault(chart):
    found = helm.lint(str(chart), values=EVERYTHING if chart is OPERATOR else None, strict=True)
    assert found["errors"] == []
    assert [m["error"] for m in found["messages"]] == ["icon is recommended"]


def test_what_the_charts_have_from_elsewhere_is_up_to_date():
    script = ROOT / "hack" / "gen_charts.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_object_is_named_once_labelled_and_in_its_place(values):
    objects = manifests(OPERATOR, values)
    names = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(set(names)) == len(names)
    for item in objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "epd"
        cluster_wide = item["kind"] in {"ClusterRole", "ClusterRoleBinding"}
        assert cluster_wide == ("namespace" not in item["metadata"])


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_operator_understands_the_command_line_it_is_given(values):
    deployment = only(manifests(OPERATOR, values), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["epd-operator"]
    arguments = [
        argument.replace("$(POD_NAMESPACE)", "epd-system").replace("$(POD_NAME)", "epd-0")
        for argument in container["args"]
    ]
    settings = parse_arguments(arguments, {})
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": settings.liveness_port, "metrics": settings.metrics_port}
    assert list(settings.namespaces) == values.get("watch", {}).get("namespaces", [])
    assert (settings.lease_namespace, settings.identity) == ("epd-system", "epd-0")


def test_without_images_the_operator_chooses_its_own():
    deployment = only(manifests(OPERATOR, {}), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert not any("image" in argument for argument in container["args"])
    (container,) = only(manifests(OPERATOR, EVERYTHING), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"--worker-image=w:1", "--gateway-image=g:1"} <= set(container["args"])


def test_a_namespaced_operator_asks_for_nothing_cluster_wide():
    objects = manifests(OPERATOR, VARIANTS["namespaced"])
    assert not [o for o in objects if o["kind"].startswith("Cluster")]
    places = {o["metadata"]["namespace"] for o in objects if o["kind"] == "Role"}
    assert places == {"a", "b", "epd-system"}


def test_a_cluster_wide_operator_has_the_same_rights_as_a_namespaced_one():
    (wide,) = (
        o["rules"]
        for o in manifests(OPERATOR, {"rbac": {"aggregateRoles": False}})
        if o["kind"] == "ClusterRole"
    )
    roles = [o for o in manifests(OPERATOR, VARIANTS["namespaced"]) if o["kind"] == "Role"]
    narrow = [o["rules"] for o in roles if not o["metadata"]["name"].endswith("-lease")]
    assert narrow == [wide, wide]


def test_no_right_is_for_everything():
    for item in manifests(OPERATOR, EVERYTHING):
        for rule in item.get("rules", []):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_the_definition_is_that_of_the_models_and_is_kept():
    (crd,) = manifests(CRDS, {"annotations": {"a": "b"}})
    wanted = yaml.safe_load(crd_text())
    assert crd["spec"] == wanted["spec"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep", "a": "b"}


REFUSED = {
    "unknown": ({"replica": 2}, "replica"),
    "replicas-text": ({"replicas": "two"}, "replicas"),
    "replicas-below": ({"replicas": -1}, "replicas"),
    "unknown-inside": ({"image": {"name": "x"}}, "name"),
    "no-repository": ({"image": {"repository": ""}}, "repository"),
    "digest": ({"image": {"digest": "abc"}}, "digest"),
    "pull-policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    "namespace": ({"watch": {"namespaces": ["Not A Name"]}}, "namespaces"),
    "namespaces-twice": ({"watch": {"namespaces": ["a", "a"]}}, "namespaces"),
    "namespaces-text": ({"watch": {"namespaces": "a"}}, "namespaces"),
    "log-level": ({"logLevel": "loud"}, "logLevel"),
    "switch": ({"networkPolicy": {"enabled": "yes"}}, "networkPolicy"),
    "interval": ({"metrics": {"podMonitor": {"interval": "often"}}}, "interval"),
    "labels": ({"podLabels": {"a": 1}}, "podLabels"),
    "account-without-name": ({"serviceAccount": {"create": False}}, "serviceAccount"),
    "image-with-spaces": ({"images": {"worker": "a b"}}, "worker"),
    "pull-secret": ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
}


@pytest.mark.parametrize(("values", "named"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_value_is_refused_by_name(values, named):
    with pytest.raises(helm.HelmValuesError, match=named):
        rendered(OPERATOR, values)


def test_values_of_the_chart_of_definitions_are_checked_too():
    with pytest.raises(helm.HelmValuesError, match="annotation"):
        rendered(CRDS, {"annotation": {}})


def test_the_notes_name_the_next_command():
    notes = rendered(OPERATOR, VARIANTS["namespaced"])["epd/templates/NOTES.txt"]
    assert "helm install epd-crds" in notes
    assert "kubectl apply --namespace a -f -" in notes
    assert "works in a, b." in notes


def expressions_of_alerts():
    groups = only(manifests(OPERATOR, EVERYTHING), "PrometheusRule")["spec"]["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_alerts_lead_to_the_runbooks_wherever_they_lie():
    values = {"metrics": {"prometheusRule": {"enabled": True, "runbooks": "https://x/books/"}}}
    groups = only(manifests(OPERATOR, values), "PrometheusRule")["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert rules
    for rule in rules:
        wanted = f"https://x/books/{rule['alert']}.md"
        assert rule["annotations"]["runbook_url"] == wanted


def dashboards():
    """Return what the ConfigMaps with dashboards hold."""
    maps = [o for o in manifests(OPERATOR, EVERYTHING) if o["kind"] == "ConfigMap"]
    return [json.loads(text) for each in maps for text in each["data"].values()]


def test_every_dashboard_is_a_config_map_that_the_sidecar_finds():
    values = {
        "dashboards": {"enabled": True},
        "metrics": {"prometheusRule": {"runbooks": "https://x/books"}},
    }
    maps = [o for o in manifests(OPERATOR, values) if o["kind"] == "ConfigMap"]
    shipped = {name: text for each in maps for name, text in each["data"].items()}
    files = {path.name: path.read_text() for path in (ROOT / "dashboards").glob("*.json")}
    assert len(files) == 5
    assert shipped.keys() == files.keys()
    for name, text in files.items():
        wanted = text.replace('"docs/runbooks/', '"https://x/books/')
        assert json.loads(shipped[name]) == json.loads(wanted)
    assert {each["metadata"]["labels"]["grafana_dashboard"] for each in maps} == {"1"}


def expressions_of_dashboards():
    panels = [panel for board in dashboards() for panel in board["panels"]]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


@pytest.mark.parametrize("expressions", [expressions_of_alerts, expressions_of_dashboards])
def test_alerts_and_dashboards_ask_for_series_that_exist(expressions):
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    known = {
        metric.name + suffix
        for metric in telemetry.METRICS
        for suffix in suffixes.get(metric.type, ("",))
    }
    asked = {name for text in expressions() for name in SERIES.findall(text)}
    assert asked
    assert asked <= known
