"""What a good manifest means: defaults, examples, the first split, the schema behind it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from epd.api import (
    EngineType,
    EPDCluster,
    EPDClusterSpec,
    MethodName,
    RoleName,
    chosen_method,
    initial_roles,
    load_cluster,
    manifest_of,
    parse_cluster,
    validate_cluster,
)
from epd.api.model import ModelSpec
from epd.api.v1alpha1 import GatewaySpec, RolePolicy
from epd.vocabulary import API_VERSION, DEFAULT_PORTS, KIND, Method, PortName, Role

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = ModelSpec(source="org/model", served_name="demo")
E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
EP, ED, EPD = Role.ENCODE_PREFILL, Role.ENCODE_DECODE, Role.ENCODE_PREFILL_DECODE


def spec_of(replicas: int, method: MethodName, **bounds: tuple[int, int | None]) -> EPDClusterSpec:
    roles = tuple(
        RolePolicy(name=RoleName[name], min=least, max=most)
        for name, (least, most) in bounds.items()
    )
    return EPDClusterSpec(model=MODEL, replicas=replicas, method=method, roles=roles)


def test_the_least_manifest_has_working_defaults() -> None:
    cluster = parse_cluster(
        "apiVersion: epd.dev/v1alpha1\nkind: EPDCluster\nmetadata: {name: a}\n"
        "spec: {model: {source: m, servedName: m}, replicas: 1}\n"
    )
    spec = cluster.spec
    assert spec.engine.type is EngineType.VLLM
    assert spec.method is MethodName.AUTO
    assert (spec.slo.ttft_milliseconds, spec.slo.tpot_milliseconds) == (1000, 50)
    assert spec.gateway.limits.max_body_bytes == 64 * 1024 * 1024
    assert spec.gateway.port == DEFAULT_PORTS[PortName.GATEWAY_HTTP]
    assert cluster.status is None


def test_the_models_and_the_vocabulary_name_the_same_object() -> None:
    fields = EPDCluster.model_fields
    assert get_args(fields["api_version"].annotation) == (API_VERSION,)
    assert get_args(fields["kind"].annotation) == (KIND,)
    assert {name.role for name in RoleName} == set(Role)
    assert [RoleName.of(role).role for role in Role] == list(Role)
    assert {method for name in MethodName for method in name.methods} == set(Method)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_accepted_and_survives_its_own_manifest(path: Path) -> None:
    cluster = load_cluster(path)
    assert validate_cluster(manifest_of(cluster)) == cluster
    assert cluster.metadata.name == path.stem


def test_the_tiny_example_starts_one_pod_per_stage() -> None:
    spec = load_cluster(EXAMPLES / "tiny.yaml").spec
    assert initial_roles(spec) == [E, P, D]
    assert spec.model.source == "build/models/tiny-qwen3-vl"


def test_a_cluster_cannot_be_changed_after_it_was_checked() -> None:
    spec = spec_of(3, MethodName.E_P_D)
    with pytest.raises(ValidationError, match="frozen"):
        spec.replicas = 1


def test_a_contradiction_is_refused_in_python_as_in_yaml() -> None:
    with pytest.raises(ValidationError, match="too few for method E-P-D"):
        spec_of(2, MethodName.E_P_D)
    with pytest.raises(ValidationError):
        GatewaySpec(replicas="2")  # type: ignore[arg-type]


def test_a_status_field_of_a_newer_release_is_passed_over() -> None:
    manifest = manifest_of(load_cluster(EXAMPLES / "simulated.yaml"))
    manifest["status"] = {"replicas": 3, "invented": {"later": 1}}
    status = validate_cluster(manifest).status
    assert status is not None
    assert status.replicas == 3


def test_what_kubernetes_adds_to_an_object_is_accepted() -> None:
    manifest = manifest_of(load_cluster(EXAMPLES / "simulated.yaml"))
    manifest["metadata"] |= {
        "uid": "7f9c",
        "resourceVersion": "12",
        "generation": 2,
        "creationTimestamp": None,
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    }
    assert validate_cluster(manifest).metadata.generation == 2


def test_yaml_that_kubernetes_reads_is_read_alike() -> None:
    text = (EXAMPLES / "simulated.yaml").read_text(encoding="utf-8")
    cluster = parse_cluster(
        "\ufeff---\n"
        + text
        + "  podTemplate: {spec: {mode: 0644, when: 2026-11-21, at: 1:30, sure: yes}}\n"
    )
    assert cluster.spec.pod_template.spec == {
        "mode": 420,
        "when": "2026-11-21",
        "at": "1:30",
        "sure": True,
    }


def test_a_string_with_a_line_break_is_text_and_any_other_a_path(tmp_path: Path) -> None:
    text = (EXAMPLES / "simulated.yaml").read_text(encoding="utf-8")
    path = tmp_path / "cluster.yaml"
    path.write_text(text, encoding="utf-8-sig")
    assert load_cluster(text) == load_cluster(path) == load_cluster(str(path))


SPLITS: list[tuple[EPDClusterSpec, list[Role]]] = [
    (spec_of(1, MethodName.EPD), [EPD]),
    (spec_of(3, MethodName.EPD), [EPD] * 3),
    (spec_of(2, MethodName.EP_D), [EP, D]),
    (spec_of(3, MethodName.EP_D), [EP, D, D]),
    (spec_of(3, MethodName.ED_P), [ED, P, P]),
    (spec_of(3, MethodName.E_P_D), [E, P, D]),
    (spec_of(4, MethodName.E_P_D), [E, P, D, D]),
    (spec_of(8, MethodName.E_P_D), [E, E, P, P, P, D, D, D]),
    (spec_of(8, MethodName.E_P_D, ENCODE=(4, None)), [E, E, E, E, P, P, D, D]),
    (spec_of(8, MethodName.E_P_D, DECODE=(1, 2)), [E, E, E, P, P, P, D, D]),
    (spec_of(6, MethodName.E_P_D, PREFILL=(1, 1), DECODE=(1, 1)), [E, E, E, E, P, D]),
    (spec_of(2, MethodName.E_P_D, ENCODE=(0, None)), [P, D]),
    (spec_of(1, MethodName.AUTO), [EPD]),
    (spec_of(2, MethodName.AUTO), [EP, D]),
    (spec_of(3, MethodName.AUTO), [E, P, D]),
    (spec_of(3, MethodName.AUTO, DECODE=(2, None)), [EP, D, D]),
    (spec_of(4, MethodName.AUTO, DECODE=(2, None)), [E, P, D, D]),
    (spec_of(2, MethodName.AUTO, ENCODE_DECODE=(1, None)), [ED, P]),
    (spec_of(5, MethodName.AUTO, ENCODE_PREFILL_DECODE=(5, 5)), [EPD] * 5),
    (spec_of(4, MethodName.AUTO, PREFILL=(3, None)), [ED, P, P, P]),
]


@pytest.mark.parametrize(("spec", "roles"), SPLITS, ids=lambda value: str(value)[:0])
def test_the_first_split_of_a_cluster(spec: EPDClusterSpec, roles: list[Role]) -> None:
    assert initial_roles(spec) == roles
    assert set(roles) <= set(chosen_method(spec).roles)


def schemas_below(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema in `schema`, definitions included, with where it stands."""
    yield path, schema
    for key in ("properties", "$defs"):
        for name, inner in schema.get(key, {}).items():
            yield from schemas_below(inner, f"{path}.{name}")
    for inner in schema.get("anyOf", []):
        yield from schemas_below(inner, path)
    if "items" in schema:
        yield from schemas_below(schema["items"], f"{path}[]")


def test_everything_a_user_writes_is_bounded_in_the_schema() -> None:
    for path, schema in schemas_below(EPDClusterSpec.model_json_schema()):
        kind = schema.get("type")
        if kind == "string":
            assert "enum" in schema or "maxLength" in schema, path
        elif kind == "integer":
            assert {"minimum", "maximum"} <= set(schema), path
        elif kind == "array":
            assert "maxItems" in schema, path
        elif kind == "object":
            closed = schema.get("additionalProperties") is False
            assert closed or "maxProperties" in schema, path
        assert kind not in ("number", "boolean"), path
        assert not {"exclusiveMinimum", "exclusiveMaximum"} & set(schema), path
