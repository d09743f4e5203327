"""`epd up`: a cluster on this machine until Ctrl-C."""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from epd_cli.interrupts import Interrupts
from epd_cli.local_plan import Plan, check_engine, check_model, make_plan
from epd_cli.progress import Progress, progress_for
from epd_operator.control.ports import Pass
from epd_operator.local import LocalCluster
from epd_operator.local_state import LocalError, RunningCluster


def run(options: argparse.Namespace) -> int:
    """Run the cluster in the manifest; 0 if it was ended on purpose."""
    plan = make_plan(
        options.file, host=options.host, port=options.port, state_dir=options.state_dir
    )
    check_engine(plan.cluster)
    check_model(plan.cluster)
    return asyncio.run(_up(plan))


async def _up(plan: Plan) -> int:
    ready = False
    with Interrupts() as interrupts:
        try:
            began_s = time.monotonic()
            async with running(plan, interrupts) as (cluster, local):
                ready = True
                print(banner(cluster, plan, time.monotonic() - began_s), flush=True)
                await local.watch()
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
    return 0 if ready else 130


@asynccontextmanager
async def running(
    plan: Plan, interrupts: Interrupts
) -> AsyncIterator[tuple[RunningCluster, LocalCluster]]:
    """Run a cluster for as long as the block lasts, showing how it starts and ends.

    Raises:
        LocalError: It did not start; logs are kept then, and the message says where.
    """
    for note in plan.notes:
        print(f"note: {note}")
    plan.directory.claim()
    keep_logs = plan.keep_logs
    try:
        with progress_for(sys.stdout) as progress:
            local = LocalCluster(
                plan.cluster,
                plan.directory,
                listen=plan.listen,
                report=progress.report,
                gpus=plan.gpus,
                tell=lambda done: progress.say(told(done)),
            )
            interrupts.when_impatient(local.kill)
            try:
                cluster = await local.start()
                progress.started()
                yield cluster, local
            except LocalError as failure:
                keep_logs = True
                raise LocalError(f"{failure}\n  all of it is in {plan.directory.logs}") from None
            finally:
                await _stop(local, progress)
    finally:
        plan.directory.release(keep_logs=keep_logs)


def told(done: Pass) -> str:
    """Say what a pass of the control loop did, and why."""
    clock = datetime.now().astimezone().strftime("%H:%M:%S")
    flips = ", ".join(f"{f.pod} {f.from_role} → {f.to_role}" for f in done.enacted)
    why = "; ".join(str(reason) for reason in done.decision.reasons)
    parts = [f"flipped {flips} ({why})"] if flips else []
    return f"{clock} control: " + "; ".join([*parts, *([done.problem] if done.problem else [])])


async def _stop(local: LocalCluster, progress: Progress) -> None:
    progress.stopping()
    await local.stop()
    progress.say("stopped: every process has ended")


def banner(cluster: RunningCluster, plan: Plan, took_s: float) -> str:
    """Say where a cluster that is ready can be reached and what to try."""
    pods = ", ".join(f"{pod.name} {pod.role}" for pod in cluster.pods)
    url, epd = cluster.gateway_url, epd_command()
    other = cluster.pods[-1].name
    chosen = f" --state-dir {plan.directory.path}" if plan.keep_logs else ""
    body = (
        f'{{"model": "{cluster.model}", "max_tokens": 32, '
        '"messages": [{"role": "user", "content": "Hello"}]}'
    )
    return f"""
{cluster.name} is ready after {took_s:.1f} s
  base URL  {url}/v1
  model     {cluster.model}
  pods      {pods}
  metrics   {url}/metrics
  admin     {cluster.admin_url}/roster, {cluster.admin_url}/requests/ID
  live      {cluster.admin_url}/live
  logs      {plan.directory.logs}

Try it from another terminal:
  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{body}'
  {epd} chat{chosen} --image photo.png "What is this?"
  {epd} top{chosen}
  {epd} status{chosen}
  {epd} flip{chosen} {other} prefill
Ctrl-C ends it.
"""


def epd_command() -> str:
    """Return how this `epd` is called from a shell here."""
    if shutil.which("epd"):
        return "epd"
    script = Path(sys.executable).with_name("epd")
    if not script.exists():
        return f"{sys.executable} -m epd_cli"
    here = Path.cwd()
    return str(script.relative_to(here)) if script.is_relative_to(here) else str(script)
