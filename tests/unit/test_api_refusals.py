"""Every fault a manifest may have is answered with its place, the reason and a way out."""

from typing import Any

import pytest
from bad_manifests import REFUSALS, manifest

from epd.api import ClusterError, validate_cluster


@pytest.mark.parametrize(("changes", "path", "reason"), REFUSALS, ids=lambda value: str(value)[:60])
def test_a_faulty_field_is_refused_with_its_path_and_the_reason(
    changes: dict[str, Any], path: str, reason: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        validate_cluster(manifest(changes), "demo.yaml")
    (problem,) = caught.value.problems
    assert problem.path == path
    assert reason in problem.reason
    assert str(caught.value) == f"demo.yaml: {path}: {problem.reason}"


def test_the_manifest_that_the_refusals_start_from_is_accepted() -> None:
    assert validate_cluster(manifest({})).spec.replicas == 3


def test_every_fault_is_reported_on_a_line_of_its_own() -> None:
    wrong = {"spec.replicas": 0, "spec.method": "X", "spec.engine": {"kind": "VLLM"}}
    with pytest.raises(ClusterError) as caught:
        validate_cluster(manifest(wrong), "demo.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "spec.engine.kind",
        "spec.replicas",
        "spec.method",
    ]


def test_a_name_in_snake_case_does_not_stand_for_the_field() -> None:
    with pytest.raises(ClusterError) as caught:
        validate_cluster(manifest({"spec.model": {"source": "m", "served_name": "m"}}))
    assert [str(problem) for problem in caught.value.problems] == [
        "spec.model.servedName: is required",
        "spec.model.served_name: unknown field; did you mean servedName?",
    ]


def test_another_kind_of_object_is_answered_with_nothing_but_its_kind() -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"selector": {}}}
    with pytest.raises(ClusterError) as caught:
        validate_cluster(deployment)
    assert [problem.path for problem in caught.value.problems] == ["apiVersion", "kind"]


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ClusterError) as caught:
        validate_cluster(manifest({"spec.model.source": "x" * 100_000}))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.gateway": {"apiKey": "sk-SECRET"}},
        {"spec.gateway": {"apiKeysSecretRef": "sk-SECRET"}},
        {"spec.gateway": {"apiKeysSecretRef": {"name": "sk-SECRET"}}},
        {"spec.engine": {"args": ["--api-key=sk-SECRET"]}},
        {"spec.engine": {"args": ["--api-key sk-SECRET"]}},
        {"spec.engine": {"args": ["sk-SECRET"]}},
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(changes: dict[str, Any]) -> None:
    with pytest.raises(ClusterError) as caught:
        validate_cluster(manifest(changes))
    assert "SECRET" not in str(caught.value)
