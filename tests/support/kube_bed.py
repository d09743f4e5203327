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

Where the programs cannot be had, tests that ask for these are skipped with one line that says why.
Several tests share the server: name cluster-wide objects after the namespace.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kube.binaries import UnavailableError
from kube.control_plane import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Return a running control plane; it ends with the run, however the run ends."""
    try:
        plane = ControlPlane()
    except UnavailableError as error:
        pytest.skip(f"no Kubernetes here: {error}")
    with plane:
        yield plane


@pytest.fixture(scope="session")
def epdclusters(control_plane: ControlPlane) -> ControlPlane:
    """Return the control plane, knowing EPDClusters."""
    control_plane.api.kubectl("apply", "--server-side", "-f", CRDS)
    control_plane.api.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", CRDS)
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Return the name of a fresh namespace."""
    name = control_plane.api.create_namespace()
    yield name
    control_plane.api.delete_namespace(name)
