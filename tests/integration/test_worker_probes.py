"""What a worker process tells whoever probes it."""

import asyncio
import re

import httpx
from worker_process import worker_process

from epd_worker.probes import Probes


async def test_a_worker_tells_that_it_lives_that_it_is_ready_and_how_much_it_does() -> None:
    async with worker_process("--health-listen", "127.0.0.1:0") as worker:
        assert worker.process.stderr is not None
        while (found := re.search(rb"probes at port (\d+)", worker.log)) is None:
            worker.log += await worker.process.stderr.readline()
        base = f"http://127.0.0.1:{found[1].decode()}"
        async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
            assert (await client.get("/health")).status_code == 200
            while (await client.get("/ready")).status_code != 200:
                pass
            assert (await client.get("/load")).json() == {"in_flight": 0}
            assert (await client.get("/nothing")).status_code == 404


async def test_a_worker_that_loads_lives_and_is_not_ready() -> None:
    probes = Probes(is_ready=lambda: False, in_flight=lambda: 2)
    assert probes.answer("/health")[0] == 200
    assert probes.answer("/ready")[0] == 503
    assert probes.answer("/load") == (200, '{"in_flight": 2}\n')


async def test_what_is_no_http_is_refused() -> None:
    probes = Probes(is_ready=lambda: True, in_flight=lambda: 0)
    await probes.start("127.0.0.1:0")
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", probes.port)
        writer.write(b"\x16\x03\x01\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
        await writer.wait_closed()
    finally:
        probes.close()
