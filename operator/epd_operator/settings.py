"""The operator's command line, checked once."""

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from epd.api.patterns import NAMESPACE
from epd.logs import LogFormat
from epd.vocabulary import Env
from epd_operator.wanted import Images

WORKER_IMAGE: Final = "epd-operator/worker-cuda:0.1.0"
GATEWAY_IMAGE: Final = "epd-operator/gateway:0.1.0"

_EPILOG: Final = """\
examples:
  epd-operator                              every namespace, by KUBECONFIG or the pod's account
  epd-operator --namespace a --namespace b  these two; needs rights in them alone
  epd-operator --lease-namespace epd-system two replicas, one of which works

It watches EPDCluster objects and makes what they ask for: worker pods, gateways, certificates.
Stop it whenever you like: what runs goes on, and the next start takes up where this one ended.
"""


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """How one operator runs.

    Attributes:
        namespaces: Where it works; empty: everywhere.
        lease_namespace: Where the replicas elect a leader; empty: there is one replica.
        identity: This replica's name in the election.
        liveness_port: Port of /healthz and /readyz; 0: none.
        metrics_port: Port of /metrics; 0: none.
        images: The release's images.
        kubeconfig: How to reach the API server; None: as the pod we are.
        prometheus_url: Where the control loop reads metrics; empty: from the pods themselves.
        log_format: `human` or `json`; empty: as the environment says.
    """

    namespaces: tuple[str, ...]
    lease_namespace: str
    identity: str
    liveness_port: int
    metrics_port: int
    images: Images
    kubeconfig: Path | None
    prometheus_url: str = ""
    log_format: str = ""


def parse_arguments(
    argv: Sequence[str], environment: Mapping[str, str] = os.environ
) -> OperatorSettings:
    """Read the command line; leaves with status 2 and one line for a mistake in it."""
    parser = _parser()
    given = parser.parse_args(argv)
    for namespace in (*given.namespace, given.lease_namespace):
        if namespace and not re.fullmatch(NAMESPACE, namespace):
            parser.error(f"--namespace {namespace}: lower-case letters, digits and dashes only")
    for option in ("worker_image", "gateway_image"):
        image = getattr(given, option)
        if not image or any(c.isspace() for c in image):
            parser.error(f"--{option.replace('_', '-')} {image!r}: an image name was expected")
    if given.prometheus_url and not given.prometheus_url.startswith(("http://", "https://")):
        parser.error(f"--prometheus-url {given.prometheus_url}: http://... or https://... expected")
    listed = environment.get("KUBECONFIG", "").split(os.pathsep, maxsplit=1)[0]
    return OperatorSettings(
        namespaces=tuple(dict.fromkeys(given.namespace)),
        lease_namespace=given.lease_namespace,
        identity=given.identity,
        liveness_port=given.liveness_port,
        metrics_port=given.metrics_port,
        prometheus_url=given.prometheus_url,
        log_format=given.log_format,
        images=Images(worker=given.worker_image, gateway=given.gateway_image),
        kubeconfig=given.kubeconfig or (Path(listed) if listed else None),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epd-operator",
        description="Make Kubernetes clusters what their EPDCluster objects ask for.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        metavar="NS",
        help="work in this namespace only; may be repeated (default: in all)",
    )
    add(
        "--lease-namespace",
        default="",
        metavar="NS",
        help="elect a leader among replicas by a Lease in this namespace (default: no election)",
    )
    add(
        "--identity",
        default=socket.gethostname(),
        metavar="NAME",
        help="this replica's name in the election; no other may have it (default: the host's)",
    )
    add("--liveness-port", type=_port, default=8081, help="/healthz and /readyz; 0: none (8081)")
    add("--metrics-port", type=_port, default=9100, help="/metrics; 0: none (9100)")
    add(
        "--prometheus-url",
        default="",
        metavar="URL",
        help="where the control loop reads metrics (default: from the pods themselves)",
    )
    add(
        "--worker-image",
        default=WORKER_IMAGE,
        metavar="IMAGE",
        help="for clusters that name none (default: %(default)s)",
    )
    add(
        "--gateway-image",
        default=GATEWAY_IMAGE,
        metavar="IMAGE",
        help="of the gateways (default: %(default)s)",
    )
    add(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="how to reach the API server (default: KUBECONFIG, else the pod's ServiceAccount)",
    )
    add(
        "--log-format",
        choices=tuple(LogFormat),
        default="",
        help=f"how log lines read (default: {Env.LOG_FORMAT}, else human)",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


_port.__name__ = "port"
