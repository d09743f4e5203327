"""`epd-operator` as a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def operator_process(
    *arguments: str, kubeconfig: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `epd-operator`; it is killed at the end if it is still there."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "epd_operator", "--liveness-port=0", "--metrics-port=0"),
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
