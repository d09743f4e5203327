"""Fixtures that give a test a real Kubernetes; loaded for all tests by tests/conftest.py.

    def test_something(control_plane: ControlPlane, namespace: str) -> None:
        control_plane.api.kubectl("apply", "-f", "-", "-n", namespace, manifest={...})

`control_plane` is one for the whole run, up in 3 to 7 s: etcd, API server (RBAC, Pod Security),
controller manager and scheduler on loopback, no node. What it offers:

- `control_plane.api.kubeconfig`: a file for any client, as administrator; `.url`, `.ca` (PEM) and
  `.token` are what it holds; `.client` is an httpx client that is the administrator,
  `.call(method, path, body)` asks and returns JSON, `.kubectl(*arguments, manifest=...)` runs
  kubectl
- `control_plane.api.service_account(namespace, name, rules=[...], cluster_rules=[...])`: the
  kubeconfig of a new ServiceAccount with these rights and no others, by a real token
- `control_plane.crash_api_server()`, `.restart_api_server()` (after a crash, or of a running one),
  `with control_plane.frozen_api_server():`; a test leaves the server running
- `control_plane.folder / "log"`: the logs

`namespace` is a fresh one for each test, deleted afterwards. `epdclusters` is the control plane
with the definitions of `crds/` in it.

`one_node` is a real node with a control plane of its own (pods are containers; needs root), also
one for the whole run, up in 7 to 17 s, with the definitions of `crds/` in it:

- `one_node.api` as above, by a loopback port that leads into the node's network
- `one_node.forward(host, port)`: a loopback port that leads to a Service's or pod's address
- `one_node.crash("kubelet")`, `with one_node.without("kube-apiserver"):`, `with one_node.frozen(…)`
- `one_node.load_image(name, files)`: an image for an image volume (`oci://`)
- `kube.host_environment`: `claims(namespace)` to apply, then `pod_template("worker")` brings this
  checkout and its Python into pods of `kube.node_files.SHELL_IMAGE`, read-only, also under the
  restricted standard; `folder_claim(...)` makes a claim of any folder

`node_namespace` is a fresh namespace there, restricted, with those claims in it.

`fake_nodes` is another control plane, for tests with many pods: `fake_nodes.add(8)` makes nodes on
which pods become ready at once and nothing runs (kwok). It knows EPDClusters.

Where the programs cannot be had, tests that ask for these are skipped with one line that says why.
Several tests share the server: name cluster-wide objects after the namespace.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from kube import host_environment
from kube.api import Api
from kube.bed import Bed
from kube.binaries import UnavailableError
from kube.control_plane import ControlPlane
from kube.fake_nodes import FakeNodes
from kube.node import Node

BedT = TypeVar("BedT", bound=Bed)

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Return a running control plane; it ends with the run, however the run ends."""
    with _or_skip(ControlPlane) as plane:
        yield plane


@pytest.fixture(scope="session")
def one_node() -> Iterator[Node]:
    """Return a running node that knows EPDClusters; it ends with the run, however the run ends."""
    with _or_skip(Node) as node:
        _install_definitions(node.api)
        yield node


@pytest.fixture(scope="session")
def epdclusters(control_plane: ControlPlane) -> ControlPlane:
    """Return the control plane, knowing EPDClusters."""
    _install_definitions(control_plane.api)
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Return the name of a fresh namespace."""
    name = control_plane.api.create_namespace()
    yield name
    control_plane.api.delete_namespace(name)


@pytest.fixture(scope="session")
def fake_nodes() -> Iterator[FakeNodes]:
    """Return a control plane of its own to which fake nodes can be added."""
    with _or_skip(FakeNodes) as plane:
        _install_definitions(plane.api)
        yield plane


@pytest.fixture
def node_namespace(one_node: Node) -> Iterator[str]:
    """Return the name of a fresh restricted namespace on the node, with our environment in it."""
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = one_node.api.create_namespace(labels=restricted)
    claims = {"apiVersion": "v1", "kind": "List", "items": host_environment.claims(name)}
    one_node.api.kubectl("apply", "-f", "-", manifest=claims)
    yield name
    one_node.api.delete_namespace(name)


def _or_skip(bed: type[BedT]) -> BedT:
    try:
        return bed()
    except UnavailableError as error:
        pytest.skip(f"no {bed.__name__} here: {error}")


def _install_definitions(api: Api) -> None:
    api.kubectl("apply", "--server-side", "-f", CRDS)
    api.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", CRDS)
