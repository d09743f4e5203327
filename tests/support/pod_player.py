"""Plays the nodes of a control plane that has none: pods of one namespace run as told."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
from fake_kubernetes import running
from kube.api import Api

INTERVAL_S = 0.1


class PodPlayer:
    """Reports every pod as running, but for those that `holds_back` names."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._addresses = itertools.count(1)
        self.holds_back: Callable[[dict[str, Any]], bool] = lambda pod: False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._play())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _play(self) -> None:
        while True:
            with suppress(httpx.HTTPError):
                await asyncio.to_thread(self.turn)
            await asyncio.sleep(INTERVAL_S)

    def turn(self) -> None:
        """Start whatever does not run yet."""
        pods = self._api.client.get(self._pods)
        if pods.is_error:
            return
        for pod in pods.json()["items"]:
            status = pod.get("status") or {}
            is_ready = any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in status.get("conditions") or ()
            )
            if is_ready or pod["metadata"].get("deletionTimestamp") or self.holds_back(pod):
                continue
            number = next(self._addresses)
            report = running(f"10.99.{number // 250}.{number % 250 + 1}")
            for condition in report["conditions"]:
                condition["lastTransitionTime"] = pod["metadata"]["creationTimestamp"]
            self._api.client.patch(
                f"{self._pods}/{pod['metadata']['name']}/status",
                json={"status": report},
                headers={"Content-Type": "application/merge-patch+json"},
            )
