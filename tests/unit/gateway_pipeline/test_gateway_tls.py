"""Certificates that are exchanged while the gateway runs: its own, and those for workers."""

import asyncio
import itertools
import shutil
import ssl
from pathlib import Path

import httpx
from fake_cluster import quick_settings, until
from fake_workers import FakeWorker

from epd.vocabulary import Role
from epd_gateway.server import worker_tls
from epd_gateway.settings import Workers
from epd_gateway.workers import Worker

EPD = Role.ENCODE_PREFILL_DECODE
CERTIFICATES = Path(__file__).parents[2] / "support" / "certificates"


def put(folder: Path, name: str, *, key: bool = True) -> None:
    """Replace certificate and key by another pair, each in one go."""
    for end in ("pem", "key") if key else ("pem",):
        fresh = folder / f"new.{end}"
        shutil.copy(CERTIFICATES / f"{name}.{end}", fresh)
        fresh.replace(folder / f"tls.{end}")


async def shown(port: int) -> str:
    """Return the certificate that a new client is shown."""
    certificate = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return certificate.strip()


def pem(name: str) -> str:
    text = (CERTIFICATES / f"{name}.pem").read_text()
    return text[text.index("-----BEGIN") :].strip()


async def test_a_certificate_that_is_exchanged_is_shown_to_the_next_client(
    make_cluster, tmp_path, caplog
):
    put(tmp_path, "gateway")
    files = {"tls_certificate": tmp_path / "tls.pem", "tls_key": tmp_path / "tls.key"}
    cluster = await make_cluster({"listen": {"files_poll_s": 0.005, **files}})
    port = cluster.gateway.public.port
    assert await shown(port) == pem("gateway")
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False
    ) as client:
        assert (await client.get("/health")).status_code == 200
        put(tmp_path, "worker", key=False)
        await until(lambda: "the last good ones stay" in caplog.text)
        assert await shown(port) == pem("gateway")
        put(tmp_path, "worker")
        while await shown(port) != pem("worker"):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.005)
        assert (await client.get("/health")).status_code == 200


async def test_each_connection_to_a_worker_reads_the_files_anew():
    peer = FakeWorker("a", EPD)
    await peer.start()
    read = itertools.count(1)
    worker = Worker("a", peer.address, EPD, quick_settings(), lambda: next(read) and None)
    worker.start()
    await until(lambda: worker.view.healthy)
    first = worker.description.incarnation
    await peer.die()
    await peer.start()
    await until(lambda: worker.view.healthy and worker.description.incarnation != first)
    assert next(read) > 2
    await worker.close()
    await peer.die()


def test_the_tls_towards_workers_is_what_the_files_say_now(tmp_path):
    settings = Workers(
        tls_ca=CERTIFICATES / "ca.pem",
        tls_certificate=tmp_path / "tls.pem",
        tls_key=tmp_path / "tls.key",
    )
    for name in ("gateway", "worker"):
        put(tmp_path, name)
        assert worker_tls(settings) is not None
    assert worker_tls(Workers()) is None
