"""The worker's command line, checked once."""

import argparse
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epd.logs import LogFormat
from epd.vocabulary import DEFAULT_PORTS, Env, PortName
from epd_worker.engine.settings import EngineSettings
from epd_worker.engine.transports import AUTO, TRANSPORTS, UCX_TLS
from epd_worker.tls import TlsFiles

ENGINES = ("vllm", "simulated")
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one worker runs; `engine` is what its engine is told."""

    name: str
    listen: str
    metrics_listen: str
    """HOST:PORT of `/metrics`; empty: nowhere."""
    health_listen: str
    """HOST:PORT where probes are answered; empty: nowhere."""
    engine_type: str
    engine: EngineSettings
    tls: TlsFiles | None
    grace_s: float
    """How long work in flight may go on after the signal to end."""
    exit_with_parent: bool
    log_format: str = ""
    """`human` or `json`; empty: as the environment says."""
    fault_file: Path | None = None
    """Where `epd fault lossy-handoff` leaves its orders; None: it has nothing to say here."""


def parse_arguments(argv: Sequence[str]) -> WorkerSettings:
    """Read the command line; leaves with status 2 and one line for a mistake in it."""
    own, engine_args = _split(list(argv))
    parser = _parser()
    options = parser.parse_args(own)
    for flag, listen in (
        ("--listen", options.listen),
        ("--metrics-listen", options.metrics_listen),
        ("--health-listen", options.health_listen),
    ):
        host, _, port = listen.rpartition(":")
        if listen and not (host and port.isdigit() and int(port) <= 65535):
            parser.error(f"{flag} {listen}: HOST:PORT was expected")
    host = options.listen.rpartition(":")[0]
    side_channel_host = options.side_channel_host or host.strip("[]")
    if side_channel_host in EVERY_ADDRESS:
        parser.error(
            f"--listen {options.listen} needs --side-channel-host: the address at which other "
            "workers reach this one"
        )
    tls_files = (options.tls_cert, options.tls_key, options.tls_ca)
    if any(tls_files) and not all(tls_files):
        parser.error("--tls-cert, --tls-key and --tls-ca go together")
    if options.engine == "vllm" and options.model is None:
        parser.error("--engine vllm needs --model: a folder or a hub name")
    model = options.model or "simulated"
    engine = EngineSettings(
        name=options.name,
        model=model,
        served_name=options.served_name or model,
        side_channel_host=side_channel_host,
        kv_side_channel_port=options.kv_side_channel_port,
        ec_side_channel_port=options.ec_side_channel_port,
        transport=options.transport,
        kv_lease_s=options.kv_lease_s,
        ec_lease_s=options.ec_lease_s,
        engine_args=engine_args,
        cost_curves=options.cost_curves,
        seed=options.seed,
    )
    return WorkerSettings(
        name=options.name,
        listen=options.listen,
        metrics_listen=options.metrics_listen,
        health_listen=options.health_listen,
        engine_type=options.engine,
        engine=engine,
        tls=TlsFiles(*tls_files) if all(tls_files) else None,
        grace_s=options.grace_s,
        exit_with_parent=options.exit_with_parent,
        log_format=options.log_format,
        fault_file=options.fault_file,
    )


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Part our own arguments from the engine's, which follow a lone `--`."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _positive_s(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise ValueError
    return seconds


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


_positive_s.__name__ = "number of seconds"
_port.__name__ = "port"


def _parser() -> argparse.ArgumentParser:
    default_listen = f"127.0.0.1:{DEFAULT_PORTS[PortName.WORKER_GRPC]}"
    parser = argparse.ArgumentParser(
        prog="epd-worker",
        description="Serve any stage of any request over gRPC.",
        epilog="What follows a lone -- goes to the engine as it is: vLLM's own options, or "
        "section.key=value for the simulated engine's cost curves.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", default=socket.gethostname(), help="the pod's name (default: the host's)")
    add("--listen", default=default_listen, metavar="HOST:PORT", help="default: %(default)s")
    add("--metrics-listen", default="", metavar="HOST:PORT", help="Prometheus metrics over HTTP")
    add(
        "--health-listen",
        default="",
        metavar="HOST:PORT",
        help="answer /health, /ready and /load there, over plain HTTP",
    )
    add("--engine", choices=ENGINES, default="vllm")
    add("--model", help="a folder or a hub name")
    add("--served-name", help="what clients call the model (default: --model)")
    add("--cost-curves", type=Path, metavar="FILE", help="YAML or JSON; simulated engine")
    add("--seed", type=int, default=0)
    add("--side-channel-host", help="where other workers fetch EC and KV (default: --listen's)")
    add("--kv-side-channel-port", type=_port, default=0, help="0: any free port")
    add("--ec-side-channel-port", type=_port, default=0, help="0: any free port")
    add(
        "--transport",
        choices=TRANSPORTS,
        default=AUTO,
        help=f"what handoffs travel over (default: what UCX finds best); {UCX_TLS} wins over it",
    )
    add("--kv-lease-s", type=_positive_s, default=30.0, help="default: %(default)s")
    add("--ec-lease-s", type=_positive_s, default=60.0, help="default: %(default)s")
    add("--tls-cert", type=Path, metavar="FILE", help="mutual TLS, with the next two")
    add("--tls-key", type=Path, metavar="FILE")
    add("--tls-ca", type=Path, metavar="FILE", help="signs the gateways' certificates")
    add("--grace-s", type=_positive_s, default=5.0, help="for work in flight at SIGTERM")
    add(
        "--log-format",
        choices=tuple(LogFormat),
        default="",
        help=f"how log lines read (default: {Env.LOG_FORMAT}, else human)",
    )
    add("--fault-file", type=Path, metavar="FILE", help="lose handoffs while it says so: epd fault")
    add("--exit-with-parent", action="store_true", help="end when the starting process ends")
    return parser
