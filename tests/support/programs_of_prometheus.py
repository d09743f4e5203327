"""Marks tests that need Prometheus, which not every machine can get."""

import pytest
from kube.binaries import UnavailableError
from monitoring.live.prometheus import program


def _missing(name: str) -> str:
    try:
        program(name)
    except UnavailableError as error:
        return str(error)
    return ""


needs_prometheus = pytest.mark.skipif(bool(_missing("prometheus")), reason=_missing("prometheus"))
