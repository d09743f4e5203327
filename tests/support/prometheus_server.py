"""A real Prometheus that scrapes what a test names; skipped where there is none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from kube.binaries import UnavailableError
from monitoring.live import prometheus as live
from monitoring.live.prometheus import PrometheusServer, Target


def targets(jobs: Mapping[str, Sequence[str]]) -> list[Target]:
    """Return HOST:PORTs by job name as targets; their series carry `cluster="test"`."""
    return [
        Target(address, {"job": job, "cluster": "test"})
        for job, addresses in jobs.items()
        for address in addresses
    ]


@contextmanager
def prometheus(folder: Path, jobs: Mapping[str, Sequence[str]]) -> Iterator[PrometheusServer]:
    """Run a server for as long as the block lasts."""
    try:
        live.program("prometheus")
    except UnavailableError as error:
        pytest.skip(str(error))
    with live.PrometheusServer(folder) as server:
        server.set_targets(targets(jobs))
        yield server
