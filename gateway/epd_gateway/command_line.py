"""The gateway's command line, checked once."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epd.logs import LogFormat
from epd.vocabulary import Env
from epd_gateway.settings import Settings, SettingsError
from epd_gateway.settings_file import SettingsSource


@dataclass(frozen=True, slots=True)
class Options:
    """How one gateway runs.

    Attributes:
        settings: Limits, deadlines and intervals; the public address is in `settings.listen`.
        settings_source: Where they come from; what is in a file may change.
        admin_host: Address of the admin listener.
        admin_port: Its port; None: there is no admin listener.
        decision_file: Where the control loop writes its last pass, for the live view.
        roster_file: The file to follow; None: the roster comes from Kubernetes.
        kubernetes_cluster: Name of the `EPDCluster` whose pods to follow, else empty.
        namespace: Where that cluster is; empty: the namespace of the credentials.
        model: Served model name; empty: what the roster says.
        api_key_file: Keys that clients must show; None: everybody may.
        processes: Gateway processes that share the public port.
        log_format: `human` or `json`; empty: as the environment says.
        share_port: Other processes listen on the public port, too.
        exit_with_parent: End when the starting process does.
    """

    settings: Settings
    settings_source: SettingsSource
    admin_host: str
    admin_port: int | None
    decision_file: Path | None
    roster_file: Path | None
    kubernetes_cluster: str
    namespace: str
    model: str
    api_key_file: Path | None
    processes: int
    log_format: str
    share_port: bool
    exit_with_parent: bool


def parse_arguments(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> Options:
    """Read the command line; leaves with status 2 and one line for a mistake in it."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        host, port = _address(given.listen, "--listen")
        admin = _address(given.admin_listen, "--admin-listen") if given.admin_listen else ("", None)
        dotted = dict(_assignment(text) for text in given.set)
        if given.listen:
            dotted |= {"listen.host": host, "listen.port": str(port)}
        source = SettingsSource(dotted, environment, given.settings_file)
        settings = source.read()
    except SettingsError as error:
        parser.error(str(error))
    if given.roster_file is None and not given.kubernetes_cluster:
        parser.error("--kubernetes-cluster: a name was expected")
    if given.namespace and not given.kubernetes_cluster:
        parser.error("--namespace: only with --kubernetes-cluster")
    if given.processes < 1:
        parser.error("--processes: at least 1")
    return Options(
        settings=settings,
        settings_source=source,
        admin_host=admin[0],
        admin_port=admin[1],
        decision_file=given.decision_file,
        roster_file=given.roster_file,
        kubernetes_cluster=given.kubernetes_cluster,
        namespace=given.namespace,
        model=given.model,
        api_key_file=given.api_key_file,
        processes=given.processes,
        log_format=given.log_format,
        share_port=given.share_port,
        exit_with_parent=given.exit_with_parent,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epd-gateway",
        description="Serves OpenAI's API and places every stage of a request on a worker.",
        allow_abbrev=False,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where clients connect; port 0: any")
    parser.add_argument(
        "--admin-listen",
        metavar="HOST:PORT",
        help="where operators look at requests and the roster; keep it on loopback",
    )
    parser.add_argument(
        "--decision-file",
        metavar="FILE",
        type=Path,
        help="what the control loop last decided, shown on the admin listener's /live",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--roster-file", metavar="FILE", type=Path, help="the roster to follow")
    source.add_argument(
        "--kubernetes-cluster",
        metavar="NAME",
        default="",
        help="the EPDCluster whose pods to follow, by KUBECONFIG or the pod's ServiceAccount",
    )
    parser.add_argument(
        "--namespace", metavar="NAME", default="", help="where that cluster is, if not here"
    )
    parser.add_argument(
        "--model", metavar="NAME", default="", help="served model name, unless the roster has it"
    )
    parser.add_argument(
        "--api-key-file", metavar="FILE", type=Path, help="one key a line; clients must show one"
    )
    parser.add_argument(
        "--processes", metavar="N", type=int, default=1, help="processes that share the port"
    )
    parser.add_argument(
        "--log-format",
        choices=tuple(LogFormat),
        default="",
        help=f"how log lines read (default: {Env.LOG_FORMAT}, else human)",
    )
    parser.add_argument("--share-port", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--set",
        metavar="GROUP.NAME=VALUE",
        action="append",
        default=[],
        help="a setting, such as limits.max_body_bytes=1000000 or deadlines.prefill_s=20",
    )
    parser.add_argument(
        "--settings-file",
        metavar="FILE",
        type=Path,
        help="settings one a line, looked at every second; --set wins over it",
    )
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when the starting process ends"
    )
    return parser


def _address(text: str | None, option: str) -> tuple[str, int | None]:
    if text is None:
        return "", None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"{option} {text}: HOST:PORT was expected")
    return host.strip("[]"), int(port)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--set {text}: GROUP.NAME=VALUE was expected")
    return name, value
