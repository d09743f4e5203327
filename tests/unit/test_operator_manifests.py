"""What the operator builds: worker pods, gateways, policies, and users' templates on top."""

from pathlib import Path
from typing import Any

import pytest
from charts import OPERATOR
from charts import manifests as rendered_chart
from operator_world import IMAGES, manifest

from epd.api.load import validate_cluster
from epd.vocabulary import Role
from epd_gateway.settings_file import SettingsSource
from epd_operator.manifests_gateway import gateway_objects
from epd_operator.manifests_policy import policy_objects
from epd_operator.manifests_worker import revision_of, worker_pod
from epd_operator.node_loss import NODE_LOST_S
from epd_operator.objects import Kind, Manifest, covers
from epd_operator.pod_template import merged
from epd_operator.wanted import Wanted
from epd_worker.settings import parse_arguments


def wanted(**spec: Any) -> Wanted:
    """Return what a cluster with this spec asks for."""
    return Wanted.of(validate_cluster(manifest(**spec)), IMAGES)


def vllm(**spec: Any) -> Wanted:
    """Return what a cluster of real engines asks for."""
    model = {"source": "org/model", "servedName": "m", **spec.pop("model", {})}
    engine = {"type": "VLLM", "args": ["--max-model-len=2048"], **spec.pop("engine", {})}
    return wanted(model=model, engine=engine, **spec)


def pod(cluster: Wanted, role: Role = Role.DECODE) -> Manifest:
    """Return a worker pod."""
    return worker_pod(cluster, "demo-0", role)


def container(manifest: Manifest) -> Manifest:
    """Return the one container of a pod."""
    (only,) = manifest["spec"]["containers"]
    return dict(only)


def of_kind(cluster: Wanted, kind: Kind) -> Manifest:
    """Return the gateways' object of a kind."""
    (found,) = [each for each in gateway_objects(cluster) if each["kind"] == kind.kind]
    return found


def test_the_transport_of_the_manifest_reaches_a_worker_of_a_real_engine() -> None:
    words = container(pod(vllm(transport={"type": "TCP"})))["args"]
    assert parse_arguments(words).engine.transport == "TCP"
    assert parse_arguments(container(pod(vllm()))["args"]).engine.transport == "Auto"


@pytest.mark.parametrize("cluster", [wanted(), vllm()], ids=["simulated", "vllm"])
def test_a_workers_command_line_is_one_that_the_worker_takes(cluster: Wanted) -> None:
    words = container(pod(cluster))["args"]
    filled = [
        word.replace("$(POD_NAME)", "demo-0").replace("$(POD_IP)", "10.0.0.1") for word in words
    ]
    settings = parse_arguments(filled)
    assert settings.name == "demo-0"
    assert settings.tls is not None
    assert settings.engine.side_channel_host == "10.0.0.1"


def test_a_users_text_is_never_read_as_a_variable() -> None:
    cluster = vllm(engine={"args": ["--chat-template=$(POD_IP)"]})
    assert container(pod(cluster))["args"][-1] == "--chat-template=$$(POD_IP)"


def test_pods_of_one_revision_differ_in_name_and_role_alone() -> None:
    cluster = wanted()
    one, other = pod(cluster), worker_pod(cluster, "demo-1", Role.ENCODE)
    assert one["spec"] == other["spec"]
    assert one["metadata"]["labels"]["epd.dev/revision"] == revision_of(cluster)


@pytest.mark.parametrize(
    ("changes", "is_upgrade"),
    [
        ({"replicas": 5}, False),
        ({"method": "EPD"}, False),
        ({"slo": {"ttftMilliseconds": 500}}, False),
        ({"control": {"mode": "Off"}}, False),
        ({"gateway": {"replicas": 3}}, False),
        ({"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}, True),
        ({"transport": {"rdmaResourceName": "rdma/hca"}}, True),
    ],
)
def test_only_what_a_pod_is_made_of_makes_an_upgrade(
    changes: dict[str, Any], is_upgrade: bool
) -> None:
    assert (revision_of(wanted(**changes)) != revision_of(wanted())) is is_upgrade


@pytest.mark.parametrize(
    ("source", "argument", "volume"),
    [
        ("org/model", "org/model", None),
        (
            "pvc://claim/a/b",
            "/models/a/b",
            {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
        ),
        (
            "oci://reg/m:1",
            "/models",
            {"image": {"reference": "reg/m:1", "pullPolicy": "IfNotPresent"}},
        ),
        ("/srv/model", "/srv/model", None),
    ],
)
def test_a_model_comes_from_the_hub_a_claim_an_image_or_a_folder(
    source: str, argument: str, volume: Manifest | None
) -> None:
    made = pod(vllm(model={"source": source}))
    assert f"--model={argument}" in container(made)["args"]
    volumes = {each["name"]: each for each in made["spec"]["volumes"]}
    assert volumes.get("model") == (None if volume is None else {"name": "model", **volume})


def test_the_hubs_token_and_cache_reach_the_pod() -> None:
    cache = {"type": "Claim", "claimName": "models"}
    made = container(pod(vllm(model={"cache": cache, "tokenSecretRef": {"name": "hub"}})))
    environment = {each["name"]: each for each in made["env"]}
    assert environment["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    mounts = {each["mountPath"] for each in made["volumeMounts"]}
    assert environment["HF_HOME"]["value"] in mounts


def test_an_rdma_device_is_asked_for() -> None:
    made = container(pod(wanted(transport={"type": "RDMA", "rdmaResourceName": "rdma/hca"})))
    assert made["resources"]["limits"] == {"rdma/hca": "1"}


def test_gateways_are_open_only_where_the_spec_says_so() -> None:
    closed = container(of_kind(wanted(), Kind.DEPLOYMENT)["spec"]["template"])
    opened = container(
        of_kind(wanted(gateway={"access": "Open"}), Kind.DEPLOYMENT)["spec"]["template"]
    )
    assert any(word.startswith("--api-key-file=") for word in closed["args"])
    assert not any(word.startswith("--api-key-file=") for word in opened["args"])


def test_another_objective_or_limit_reaches_gateways_by_a_file_and_restarts_none(
    tmp_path: Path,
) -> None:
    before = wanted()
    limits = {"maxRequestsInFlightPerKey": 7, "allowedMediaDomains": ["a.org", "b.org"]}
    slo = {"ttftMilliseconds": 77, "overflow": "WhenMissing"}
    after = wanted(slo=slo, gateway={"limits": limits})
    assert of_kind(after, Kind.DEPLOYMENT) == of_kind(before, Kind.DEPLOYMENT)
    settings = of_kind(after, Kind.CONFIG_MAP)
    (name, text), *_ = settings["data"].items()
    template = of_kind(after, Kind.DEPLOYMENT)["spec"]["template"]
    (volume,) = (each for each in template["spec"]["volumes"] if "configMap" in each)
    assert volume["configMap"]["name"] == settings["metadata"]["name"]
    (mount,) = (m for m in container(template)["volumeMounts"] if m["name"] == volume["name"])
    assert f"--settings-file={mount['mountPath']}/{name}" in container(template)["args"]
    file = tmp_path / name
    file.write_text(text)
    understood = SettingsSource({}, {}, file).read()
    assert understood.media.allowed_domains == ("a.org", "b.org")
    assert not understood.slo.overflow
    assert {"slo.ttft_ms=77", "keys.max_in_flight=7", "media.allowed_domains=a.org,b.org"} <= set(
        text.splitlines()
    )


def test_a_public_certificate_is_served_and_probed_by_https() -> None:
    gateway = {"tlsSecretName": "public", "serviceType": "LoadBalancer", "port": 443}
    cluster = wanted(gateway=gateway)
    made = container(of_kind(cluster, Kind.DEPLOYMENT)["spec"]["template"])
    assert "--set=listen.tls_certificate=/etc/epd/public-tls/tls.crt" in made["args"]
    assert made["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    service = of_kind(cluster, Kind.SERVICE)["spec"]
    assert (service["type"], service["ports"][0]["port"]) == ("LoadBalancer", 443)


@pytest.mark.parametrize("tls", [{}, {"tlsSecretName": "public"}], ids=["plain", "tls"])
def test_the_charts_pod_monitor_scrapes_each_pod_once_as_it_speaks(tls: dict[str, str]) -> None:
    cluster = wanted(gateway=tls)
    values = {"metrics": {"podMonitor": {"enabled": True}}}
    monitor = next(
        each["spec"]
        for each in rendered_chart(OPERATOR, values)
        if each["kind"] == "PodMonitor" and each["metadata"]["name"] == "epd-clusters"
    )
    for scraped in (pod(cluster), of_kind(cluster, Kind.DEPLOYMENT)["spec"]["template"]):
        ports = {port["name"] for port in container(scraped)["ports"]}
        (found,) = (each for each in monitor["podMetricsEndpoints"] if each["port"] in ports)
        speaks = container(scraped)["readinessProbe"]["httpGet"].get("scheme", "HTTP")
        assert found.get("scheme", "http") == speaks.lower()


def test_no_pod_stays_bound_to_a_silent_node_unless_the_user_says_so() -> None:
    patient = {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}
    cluster = wanted(podTemplate={"spec": {"tolerations": [patient]}})
    gateways = of_kind(cluster, Kind.DEPLOYMENT)["spec"]["template"]["spec"]["tolerations"]
    assert {each["tolerationSeconds"] for each in gateways} == {NODE_LOST_S}
    # The first that fits a taint is the one that counts.
    assert pod(cluster)["spec"]["tolerations"] == [patient, *gateways]


def test_everything_belongs_to_its_cluster_and_goes_with_it() -> None:
    cluster = wanted()
    for each in (*gateway_objects(cluster), *policy_objects(cluster), pod(cluster)):
        (owner,) = each["metadata"]["ownerReferences"]
        assert owner["kind"] == "EPDCluster"
        assert owner["controller"] is True


@pytest.mark.parametrize(("pods", "least"), [(1, 0), (8, 7)])
def test_a_budget_lets_one_pod_go_at_a_time(pods: int, least: int) -> None:
    budget = policy_objects(wanted(replicas=pods))[0]
    assert budget["spec"]["minAvailable"] == least


BASE: Manifest = {
    "metadata": {"labels": {"epd.dev/cluster": "demo"}},
    "spec": {
        "containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}], "args": ["x"]}],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        "tolerations": [{"key": "ours"}],
        "restartPolicy": "Always",
    },
}


@pytest.mark.parametrize(
    ("template", "path", "value"),
    [
        ({"nodeSelector": {"a": "b"}}, ("nodeSelector",), {"a": "b"}),
        (
            {"tolerations": [{"key": "theirs"}]},
            ("tolerations",),
            [{"key": "theirs"}, {"key": "ours"}],
        ),
        (
            {"containers": [{"name": "worker", "env": [{"name": "B", "value": "2"}]}]},
            ("containers", 0, "env"),
            [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        ),
        (
            {"containers": [{"name": "worker", "env": [{"name": "A", "value": "9"}]}]},
            ("containers", 0, "env"),
            [{"name": "A", "value": "9"}],
        ),
        ({"containers": [{"name": "worker", "args": ["y"]}]}, ("containers", 0, "args"), ["y"]),
        ({"containers": [{"name": "sidecar"}]}, ("containers", 1), {"name": "sidecar"}),
        (
            {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}]},
            ("volumes", 0),
            {"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}},
        ),
        (
            {"restartPolicy": None},
            (),
            {k: v for k, v in BASE["spec"].items() if k != "restartPolicy"},
        ),
    ],
)
def test_a_users_template_is_merged_on_top(
    template: Manifest, path: tuple[Any, ...], value: object
) -> None:
    found: Any = merged(BASE, {"spec": template})["spec"]
    for step in path:
        found = found[step]
    assert found == value


def test_a_users_labels_are_added_and_ours_stay() -> None:
    labels = {"team": "a", "epd.dev/cluster": "other"}
    made = merged(BASE, {"metadata": {"labels": labels, "name": "x"}})
    assert made["metadata"] == {"labels": {"team": "a", "epd.dev/cluster": "demo"}}


@pytest.mark.parametrize(
    ("present", "wanted_", "holds"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": None}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
    ],
)
def test_an_object_covers_what_we_wrote_whatever_the_server_added(
    present: object, wanted_: object, holds: bool
) -> None:
    assert covers(present, wanted_) is holds
