"""`kubectl epd top`: the screen of `epd top`, for a cluster on Kubernetes.

The gateway's admin routes lie on its pod's loopback, so whoever may forward ports may look.
"""

import asyncio
import re
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from epd.vocabulary import GATEWAY_ADMIN_PORT
from epd_cli.failures import CommandError
from epd_cli.kubectl import Kubectl
from epd_cli.kubectl_view import pod_view
from epd_cli.top import show
from epd_operator import local_probe

FORWARD_WITHIN_S: Final = 30.0
KEPT_FLIPS: Final = 8
_FORWARDS: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")
_FLIPPED: Final = re.compile(r"(\S+): (\S+) becomes (\S+): (.*)", re.DOTALL)


class ForwardedGateway:
    """A gateway pod that we reach through kubectl, and what Kubernetes says of its cluster."""

    def __init__(self, kubectl: Kubectl, clusters: str, cluster: str, port: int) -> None:
        """Name the cluster, the kind of its object, and our end of the forward."""
        self._kubectl = kubectl
        self._clusters = clusters
        self._cluster = cluster
        self._url = f"http://127.0.0.1:{port}/snapshot"

    async def look(self) -> dict[str, Any] | None:
        """Return the gateway's snapshot with the operator's decisions; None: no answer."""
        answer = await local_probe.get_json(self._url)
        if answer is None or answer[0] != 200:
            return None
        return {**answer[1], "control": await asyncio.to_thread(self._control)}

    def _control(self) -> dict[str, Any] | None:
        owner = self._kubectl.get(self._clusters, self._cluster)
        return control_of(owner, self._kubectl.find("events"))


def top(kubectl: Kubectl, clusters: str, cluster: str, selector: str, *, once: bool) -> None:
    """Show a cluster until Ctrl-C, or once.

    Raises:
        CommandError: No gateway is ready, or it cannot be reached.
    """
    kubectl.get(clusters, cluster)  # a name that is wrong is told before anything else
    ready = [view for view in map(pod_view, kubectl.find("pods", selector)) if view["ready"]]
    if not ready:
        raise CommandError(f"no gateway of {cluster} is ready; see kubectl epd status {cluster}")
    with forwarded(kubectl, f"pod/{ready[0]['name']}", GATEWAY_ADMIN_PORT) as port:
        show(ForwardedGateway(kubectl, clusters, cluster, port).look, once=once)


@contextmanager
def forwarded(kubectl: Kubectl, target: str, port: int) -> Iterator[int]:
    """Give a port of this machine that leads to a port of `pod/NAME` or `service/NAME`.

    Raises:
        CommandError: kubectl did not open it.
    """
    with subprocess.Popen(
        kubectl.words(["port-forward", target, f":{port}"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            readable, _, _ = select.select([process.stdout], [], [], FORWARD_WITHIN_S)
            said = process.stdout.readline() if readable else b"nothing was heard of it"
            opened = _FORWARDS.search(said)
            if opened is None:
                why = said.decode(errors="replace").strip()
                raise CommandError(f"cannot reach {target}: {why}")
            yield int(opened[1])
        finally:
            process.terminate()


def control_of(owner: dict[str, Any], events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the operator's last decision as `epd top` shows one; None before the first."""
    status = owner.get("status") or {}
    decision = status.get("lastDecision")
    if decision is None:
        return None
    uid = owner["metadata"]["uid"]
    flips = [
        flip
        for event in events
        if event.get("involvedObject", {}).get("uid") == uid and (flip := _flip(event))
    ]
    flips.sort(key=lambda flip: str(flip["time"]), reverse=True)
    return {
        "time": decision["time"],
        "mode": (owner["spec"].get("control") or {}).get("mode", ""),
        "hold": decision["reason"],
        "problem": "",
        "desired": {role["name"]: role["desired"] for role in status.get("roles") or ()},
        "reasons": decision["message"].split("; "),
        "recent": flips[:KEPT_FLIPS],
    }


def _flip(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the flip that an Event tells of; None if it tells of something else."""
    told = _FLIPPED.fullmatch(event.get("message") or "")
    if event.get("reason") != "Flipped" or told is None:
        return None
    pod, before, after, why = told.groups()
    time = event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
    return {
        "time": time,
        "enacted": [{"pod": pod, "from": before, "to": after}],
        "reasons": why.split("; "),
    }
