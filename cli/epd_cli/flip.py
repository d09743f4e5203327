"""`epd flip`: changes the role of a running pod, and waits until the gateway follows."""

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Final

from epd.vocabulary import Role
from epd_cli.connect import chosen_cluster
from epd_cli.failures import CommandError, UsageError
from epd_operator import local_probe
from epd_operator.local_roster import Flip, RosterFile
from epd_operator.local_state import StateDirectory

POLL_INTERVAL_S: Final = 0.002
DONE_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class FlipDone:
    """A flip that the gateway has seen, `took_ms` after it was asked for."""

    flip: Flip
    took_ms: float


def run(options: argparse.Namespace) -> int:
    """Flip one pod and say how long it took."""
    directory = chosen_cluster(options)
    role = parse_role(options.role)
    names = [pod.name for pod in directory.read().pods]
    if options.pod not in names:
        raise UsageError(f"no pod {options.pod!r}; pods: {', '.join(names)}")
    done = asyncio.run(flip_pod(directory, options.pod, role))
    if done.flip.before is role:
        print(f"{options.pod} already has the role {role}")
        return 0
    print(f"{options.pod}: {done.flip.before} → {role}, done in {done.took_ms:.0f} ms")
    uncovered = RosterFile(directory.roster_file).read().uncovered_stages()
    if uncovered:
        print(f"note: no pod is offered {' or '.join(uncovered)} now; that work goes to any pod")
    return 0


def parse_role(text: str) -> Role:
    """Return the role that is written `text`; UsageError lists the choices."""
    try:
        return Role.parse(text)
    except ValueError as unknown:
        raise UsageError(str(unknown)) from None


async def flip_pod(directory: StateDirectory, pod: str, role: Role) -> FlipDone:
    """Write a role change and wait until the gateway reports the version that has it.

    Raises:
        LocalError: The pod is not in the roster, or no cluster runs.
        CommandError: The gateway did not follow in time.
    """
    began_s = time.monotonic()
    flip = RosterFile(directory.roster_file).flip(pod, role)
    while time.monotonic() - began_s < DONE_WITHIN_S:
        # Read each time: a gateway that is started again has another admin address.
        applied = await local_probe.applied_version(directory.read().admin_url)
        if applied is not None and applied >= flip.version:
            return FlipDone(flip, (time.monotonic() - began_s) * 1000)
        await asyncio.sleep(POLL_INTERVAL_S)
    raise CommandError(
        f"{pod} is {role} in the roster (version {flip.version}), but the gateway has not "
        f"followed within {DONE_WITHIN_S:g} s; see its log in {directory.logs}"
    )
