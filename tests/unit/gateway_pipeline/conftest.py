"""A gateway in front of fake workers."""

import base64
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fake_cluster import Cluster, quick_settings
from PIL import Image

from epd.vocabulary import Role

MakeCluster = Callable[..., Awaitable[Cluster]]


@pytest.fixture
async def make_cluster() -> AsyncIterator[MakeCluster]:
    """Return a factory: settings groups, then the workers' roles by name."""
    clusters: list[Cluster] = []

    async def make(
        settings: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **roles: Role,
    ) -> Cluster:
        cluster = Cluster(quick_settings(**(settings or {})))
        clusters.append(cluster)
        await cluster.start(**(options or {}))
        await cluster.add(**roles)
        return cluster

    yield make
    for cluster in clusters:
        await cluster.stop()


@pytest.fixture
def picture() -> Callable[[int], str]:
    """Return a maker of data URLs; equal numbers make equal pictures."""

    def make(number: int) -> str:
        data = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(data, "PNG")
        return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()

    return make
