"""What the processes of a cluster on this machine say of themselves, asked over their sockets."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import grpc.aio

from epd.wire.messages import Description, Load
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient

ANSWER_TIMEOUT_S: Final = 2.0


async def listens(address: str) -> bool:
    """Tell whether something accepts connections at HOST:PORT of this machine."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def worker(address: str) -> AsyncIterator[WorkerClient]:
    """Give a client of the worker at HOST:PORT."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield WorkerClient(channel)


async def describe(client: WorkerClient) -> Description | None:
    """Return what a worker says it is; None if it does not answer."""
    try:
        return await client.describe(None, timeout=ANSWER_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return None


async def load(client: WorkerClient, timeout_s: float = ANSWER_TIMEOUT_S) -> Load | None:
    """Return a worker's present load; None if it does not answer in time."""
    call = client.watch_load(1000, timeout=timeout_s, wait_for_ready=True)
    try:
        async for present in call:
            return present  # type: ignore[no-any-return]
    except grpc.aio.AioRpcError:
        pass
    finally:
        call.cancel()
    return None


async def get_json(url: str) -> tuple[int, Any] | None:
    """Return status and JSON of an admin route of the gateway; None if it does not answer."""
    return await asyncio.to_thread(_get_json, url)


async def applied_version(admin_url: str) -> int | None:
    """Return the roster version that the gateway has applied; None if it does not answer."""
    answer = await get_json(f"{admin_url}/ready")
    return answer[1]["roster_version"] if answer and answer[1] else None


def _get_json(url: str) -> tuple[int, Any] | None:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            try:
                return error.code, json.load(error)
            except ValueError:
                return error.code, None
    except (OSError, ValueError):
        return None
