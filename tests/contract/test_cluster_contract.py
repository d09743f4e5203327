"""The fake Kubernetes does what the operator relies on, as the real one does.

The same suite runs against a real API server in `tests/integration/test_cluster_kubernetes.py`.
"""

import pytest
from cluster_contract import ClusterContract, Server
from fake_kubernetes import FakeKubernetes


class TestFakeKubernetes(ClusterContract):
    """The dictionary of the unit tests."""

    @pytest.fixture
    def server(self) -> Server:
        """Return an empty one."""
        return Server(FakeKubernetes(), "default")
