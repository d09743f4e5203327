"""`epd-operator` as a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def operator_process(
    *arguments: str, kubeconfig: Path, program: Sequence[str] = ("-m", "epd_operator")
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `epd-operator`, or a `program` of Python's; it is killed at the end if still there."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "--liveness-port=0", "--metrics-port=0"),
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "EPD_LOG_LEVEL": "warning"},
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()
