"""The API server refuses what the models refuse, accepts what they accept, and shows it well."""

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from bad_manifests import ENCODE, REFUSALS, manifest
from drawn_clusters import CLUSTERS, JSON
from hypothesis import given
from hypothesis import strategies as st
from kube.api import Api, KubectlError
from kube.control_plane import ControlPlane

from epd.api import (
    ClusterError,
    EPDCluster,
    MethodName,
    RoleName,
    load_cluster,
    manifest_of,
    validate_cluster,
)
from epd.api.crd import FILE_NAME, MAX_BYTES

ROOT = Path(__file__).parents[2]
URL = "/apis/epd.dev/v1alpha1/namespaces/default/epdclusters"

# What the API server says of an object's identity, before it has looked at our schema.
OF_IDENTITY = {
    "apiVersion": 'in version "v1" cannot be handled',
    "kind": "Object 'Kind' is missing",
    "metadata.labels.tier": "ObjectMeta.labels",
}


@pytest.fixture
def api(epdclusters: ControlPlane) -> Api:
    """Return an API server that knows EPDClusters."""
    return epdclusters.api


def refusal_of(api: Api, document: Any) -> str | None:
    """Return what the API server has against a new object, as `kubectl apply` asks it."""
    checks = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = api.client.post(URL, params=checks, json=document)
    return str(answer.json()["message"]) if answer.is_error else None


def complaint_of_models(document: Any) -> str | None:
    """Return what the models have against an object."""
    try:
        validate_cluster(document)
    except ClusterError as error:
        return str(error)
    return None


def is_one_thing_to_both(value: Any) -> bool:
    """Tell whether models and API server read a value alike: not null, and not 3.0 for 3."""
    return value is not None and not (isinstance(value, float) and value.is_integer())


def names(message: str, path: str) -> bool:
    """Tell whether a message names a field, or the list or list item that it stands in."""
    item, _, _ = path.rpartition("].")
    places = [path, f"{item}]", path.rpartition("[")[0]]
    return any(place in message for place in places if place.strip("]")) or (
        OF_IDENTITY.get(path, "-") in message
    )


@pytest.mark.parametrize(("changes", "path", "reason"), REFUSALS, ids=lambda value: str(value)[:60])
def test_what_the_models_refuse_the_api_server_refuses_and_names_the_field(
    api: Api, changes: dict[str, Any], path: str, reason: str
) -> None:
    document = manifest(changes)
    with pytest.raises(ClusterError):
        validate_cluster(document)
    message = refusal_of(api, document)
    if changes == {"spec.slo": None}:
        # The API server takes null for an absent field wherever there is a default.
        assert message is None
        return
    assert message is not None
    assert names(message, path), message


def test_the_table_of_bad_manifests_is_long_enough() -> None:
    assert len(REFUSALS) >= 40


def test_the_manifest_that_the_refusals_start_from_is_accepted(api: Api) -> None:
    assert refusal_of(api, manifest({})) is None


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_an_example_is_accepted_and_means_the_same_to_the_models(api: Api, path: Path) -> None:
    said = api.kubectl("apply", "--dry-run=server", "-o", "json", "-f", path)
    stored = json.loads(said)
    assert validate_cluster(stored).spec == load_cluster(path).spec
    # Every default is in the schema: nothing is left for our programs to fill in.
    assert stored["spec"] == manifest_of(load_cluster(path))["spec"]


@given(CLUSTERS)
@hypothesis.settings(
    max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_what_the_models_accept_the_api_server_accepts(api: Api, cluster: EPDCluster) -> None:
    document = manifest_of(cluster)
    document["metadata"] = {"name": cluster.metadata.name}
    assert refusal_of(api, document) is None


@given(CLUSTERS, st.data())
@hypothesis.settings(
    max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_models_and_api_server_agree_on_a_spec_with_one_value_replaced(
    api: Api, cluster: EPDCluster, data: st.DataObject
) -> None:
    document = manifest_of(cluster)
    document["metadata"] = {"name": cluster.metadata.name}
    place = document["spec"]
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        inner = place[key]
        if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(JSON.filter(is_one_thing_to_both))
            break
        place = inner
    assert (complaint_of_models(document) is None) == (refusal_of(api, document) is None)


BOUNDS = st.fixed_dictionaries(
    {"name": st.sampled_from(RoleName), "min": st.integers(0, 3)},
    optional={"max": st.integers(1, 4)},
)


@given(
    st.sampled_from(MethodName),
    st.integers(1, 8),
    st.lists(BOUNDS, max_size=3, unique_by=lambda role: role["name"]),
)
@hypothesis.settings(
    max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_models_and_api_server_agree_on_every_split(
    api: Api, method: MethodName, replicas: int, roles: list[dict[str, Any]]
) -> None:
    spec = {"spec.method": method, "spec.replicas": replicas, "spec.roles": roles}
    document = manifest(spec)
    assert (complaint_of_models(document) is None) == (refusal_of(api, document) is None)


CHANGES: list[tuple[dict[str, Any], str | None]] = [
    ({"spec.model.source": "org/other"}, None),
    ({"spec.model.revision": "v2"}, None),
    ({"spec.replicas": 5}, None),
    ({"spec.method": "EP-D"}, None),
    ({"spec.engine": {"image": "registry.example/worker:2"}}, None),
    ({"spec.model.servedName": "other"}, "spec.model.servedName"),
    ({"spec.engine": {"type": "Simulated"}}, "spec.engine.type"),
    ({"spec.roles": [ENCODE, {"name": "Encode", "min": 2}]}, "spec.roles[1]"),
    ({"spec.replicas": 1, "spec.method": "E-P-D"}, "spec.replicas"),
]


@pytest.mark.parametrize(("changes", "path"), CHANGES, ids=lambda value: str(value)[:60])
def test_a_change_is_taken_unless_it_can_have_no_meaning(
    api: Api, namespace: str, changes: dict[str, Any], path: str | None
) -> None:
    api.kubectl("create", "-n", namespace, "-f", "-", manifest=manifest({}))
    changed = manifest(changes)
    if path is None:
        api.kubectl("replace", "-n", namespace, "-f", "-", manifest=changed)
        return
    with pytest.raises(KubectlError) as caught:
        api.kubectl("replace", "-n", namespace, "-f", "-", manifest=changed)
    assert path in str(caught.value)


def scaled(api: Api, namespace: str, replicas: int) -> int:
    """Scale the cluster `demo` as `kubectl` does; return what its spec says then."""
    api.kubectl("scale", "epd/demo", f"--replicas={replicas}", "-n", namespace)
    return int(
        api.kubectl("get", "epd", "demo", "-n", namespace, "-o", "jsonpath={.spec.replicas}")
    )


def test_kubectl_scales_within_the_bounds_and_nowhere_else(api: Api, namespace: str) -> None:
    bounded = {"spec.method": "E-P-D", "spec.roles": [{"name": "Encode", "min": 2}]}
    document = manifest(bounded | {"spec.replicas": 6})
    api.kubectl("create", "-n", namespace, "-f", "-", manifest=document)
    assert scaled(api, namespace, 4) == 4
    with pytest.raises(KubectlError, match="too few for the minima of method E-P-D"):
        scaled(api, namespace, 3)
    with pytest.raises(KubectlError, match="less than or equal to 1024"):
        scaled(api, namespace, 2000)


STATUS = {
    "observedGeneration": 1,
    "replicas": 3,
    "selector": "epd.dev/cluster=demo",
    "roles": [
        {"name": "Encode", "desired": 1, "ready": 1},
        {"name": "Prefill", "desired": 1, "ready": 0},
        {"name": "Decode", "desired": 2, "ready": 2},
    ],
    "conditions": [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": "As measured.",
            "lastTransitionTime": "2026-11-21T09:30:00Z",
        }
        for kind, status, reason in (("Ready", "False", "PodsStarting"), ("SLOMet", "True", "Met"))
    ],
}


def test_status_is_written_apart_and_shown_in_columns(api: Api, namespace: str) -> None:
    document = manifest({"spec.method": "E-P-D"})
    api.kubectl("create", "-n", namespace, "-f", "-", manifest=document)
    patch = json.dumps({"status": STATUS, "spec": {"replicas": 9}})
    where = ("epd", "demo", "-n", namespace)
    api.kubectl("patch", *where, "--subresource=status", "--type=merge", f"--patch={patch}")
    stored = json.loads(api.kubectl("get", *where, "-o", "json"))
    assert stored["status"] == STATUS
    assert stored["spec"]["replicas"] == 3
    header, row = api.kubectl("get", *where).splitlines()
    assert header.split() == [
        *("NAME", "METHOD", "REPLICAS", "READY", "ENCODE", "PREFILL", "DECODE", "SLO", "MET", "AGE")
    ]
    assert row.split()[:-1] == ["demo", "E-P-D", "3", "False", "1", "0", "2", "True"]
    wide = api.kubectl("get", *where, "-o", "wide")
    assert "PodsStarting" in wide
    assert "org/model" in wide
    scale = json.loads(api.kubectl("get", *where, "--subresource=scale", "-o", "json"))
    assert scale["status"] == {"replicas": 3, "selector": "epd.dev/cluster=demo"}


def test_a_bad_status_is_refused(api: Api, namespace: str) -> None:
    api.kubectl("create", "-n", namespace, "-f", "-", manifest=manifest({}))
    patch = json.dumps({"status": {"conditions": [{"type": "Ready"}]}})
    where = ("epd", "demo", "-n", namespace)
    with pytest.raises(KubectlError, match=r"status\.conditions\[0\]\.reason: Required value"):
        api.kubectl("patch", *where, "--subresource=status", "--type=merge", f"--patch={patch}")


def test_a_cluster_is_among_all_and_can_be_waited_for(api: Api, namespace: str) -> None:
    api.kubectl("create", "-n", namespace, "-f", "-", manifest=manifest({}))
    assert "epdcluster.epd.dev/demo" in api.kubectl("get", "all", "-n", namespace, "-o", "name")
    ready = {**STATUS["conditions"][0], "status": "True"}  # type: ignore[index,dict-item]
    patch = json.dumps({"status": {"conditions": [ready]}})
    where = ("epd", "demo", "-n", namespace)
    api.kubectl("patch", *where, "--subresource=status", "--type=merge", f"--patch={patch}")
    api.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *where)


def test_kubectl_explains_every_field(api: Api) -> None:
    assert "pvc://CLAIM/FOLDER" in api.kubectl("explain", "epd.spec.model.source")
    everything = api.kubectl("explain", "epd.spec", "--recursive")
    for field in ("tokenSecretRef", "maxConcurrentFlips", "drainSeconds", "rdmaResourceName"):
        assert field in everything


def test_the_definition_is_small_enough_for_kubectl_apply(api: Api) -> None:
    path = ROOT / "crds" / FILE_NAME
    assert path.stat().st_size <= MAX_BYTES
    # Client-side apply keeps the whole object in an annotation.
    assert "server dry run" in api.kubectl("apply", "--dry-run=server", "-f", path)
    assert yaml.safe_load(path.read_text())["metadata"]["name"] == "epdclusters.epd.dev"
