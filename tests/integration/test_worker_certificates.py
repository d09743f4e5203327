"""A worker's certificates are replaced while it runs, as the operator replaces them."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest
from worker_process import worker_process

from epd.vocabulary import WORKER_TLS_NAME
from epd.wire.service import CHANNEL_OPTIONS, WorkerClient
from epd_operator import certificates

NOW = datetime.now(UTC)
OPTIONS = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", WORKER_TLS_NAME))


def made() -> dict[str, bytes]:
    """Return the files of a new cluster's Secret, by name."""
    authority = {"data": certificates.new_authority(None, "epd test", NOW)}
    leaf = certificates.new_leaf(authority, NOW)
    return {name: base64.b64decode(text) for name, text in leaf.items()}


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Replace the files as Kubernetes does: by new ones of the same names."""
    for name, content in files.items():
        fresh = folder / f"{name}.new"
        fresh.write_bytes(content)
        fresh.replace(folder / name)


def arguments(folder: Path) -> list[str]:
    """Return how a worker is told of the files."""
    names = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    return [f"--tls-{flag}={folder / name}" for flag, name in names.items()]


async def describes(address: str, files: dict[str, bytes]) -> bool:
    """Tell whether a gateway with these files gets an answer."""
    credentials = grpc.ssl_channel_credentials(files["ca.crt"], files["tls.key"], files["tls.crt"])
    async with grpc.aio.secure_channel(address, credentials, options=OPTIONS) as channel:
        try:
            await WorkerClient(channel).describe(None, timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return True


async def test_a_worker_shows_and_trusts_what_its_files_say_now(tmp_path: Path) -> None:
    old, new = made(), made()
    write(tmp_path, old)
    async with worker_process(*arguments(tmp_path)) as worker:
        assert await describes(worker.address, old)
        assert not await describes(worker.address, new)
        write(tmp_path, new)
        assert await describes(worker.address, new)
        assert not await describes(worker.address, old)


@pytest.mark.parametrize("broken", [b"", b"no certificate"])
async def test_what_cannot_be_used_changes_nothing(tmp_path: Path, broken: bytes) -> None:
    good = made()
    write(tmp_path, good)
    async with worker_process(*arguments(tmp_path)) as worker:
        write(tmp_path, {"tls.crt": broken})
        assert await describes(worker.address, good)
