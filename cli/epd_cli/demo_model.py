"""Makes the tiny model of a demo, in a process of its own: it needs torch, and we do not."""

import asyncio
import sys

from epd.api import EPDCluster
from epd_cli.failures import CommandError
from epd_cli.local_plan import tiny_kind


async def ensure(cluster: EPDCluster) -> None:
    """Make the model that `cluster` names if it is one of the tiny ones and not there yet.

    Raises:
        CommandError: It could not be made.
    """
    wanted = tiny_kind(cluster)
    if wanted is None:
        print(f"  {cluster.spec.model.source}: nothing to make")
        return
    folder, kind = wanted
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "epd_worker.engine.tiny_models",
        str(folder.parent),
        kind,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    lines = []
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        async for line in process.stdout:
            lines.append(line.decode(errors="replace").rstrip())
            print(f"  {lines[-1]}", flush=True)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        said = lines[-1] if lines else "nothing was said"
        raise CommandError(f"the tiny model {folder} could not be made: {said}")
