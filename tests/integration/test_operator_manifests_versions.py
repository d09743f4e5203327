"""What the operator builds, held to the schemas of every Kubernetes that its chart allows."""

from typing import Any

import kubernetes_validate
import pytest
from operator_world import IMAGES, manifest

from epd.api.load import validate_cluster
from epd.vocabulary import Role
from epd_operator.manifests_worker import worker_pod
from epd_operator.plan_objects import wanted_objects
from epd_operator.wanted import Wanted

VLLM: dict[str, Any] = {"engine": {"type": "VLLM"}}
CLUSTERS: dict[str, dict[str, Any]] = {
    "simulated": {},
    "hub": {**VLLM, "model": {"source": "org/model", "servedName": "m"}},
    "claim": {**VLLM, "model": {"source": "pvc://claim/folder", "servedName": "m"}},
    "rdma": {"transport": {"type": "RDMA", "rdmaResourceName": "rdma/hca"}},
}
FROM_AN_IMAGE: dict[str, Any] = {
    **VLLM,
    "model": {"source": "oci://images.test/model:1", "servedName": "m"},
}


def check(spec: dict[str, Any], version: str) -> None:
    wanted = Wanted.of(validate_cluster(manifest(**spec)), IMAGES)
    for built in [*wanted_objects(wanted), worker_pod(wanted, "demo-0", Role.DECODE)]:
        kubernetes_validate.validate(built, version, strict=True)


@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(30, 38)])
def test_what_the_operator_builds_is_valid_in_every_kubernetes_we_support(version: str) -> None:
    for spec in CLUSTERS.values():
        check(spec, version)


@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(33, 38)])
def test_a_model_in_an_image_is_valid_where_kubernetes_has_image_volumes(version: str) -> None:
    check(FROM_AN_IMAGE, version)


def test_an_older_kubernetes_would_refuse_it() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        check(FROM_AN_IMAGE, "1.30")
