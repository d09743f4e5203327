"""`telemetry`: what metrics, logs and traces cost the gateway, on against off in one run.

One fleet of simulated workers (encode → prefill → decode), and before it a gateway for each way,
all on one core and all under load at the same time: whatever else the machine does, it does to all.
Each round has gateways of its own, started in another order: two alike processes differ by 2 %.
*nothing*: metrics count nothing. *metrics*: what runs by default, scraped as the chart asks. *one
trace in ten* and *all traces*: that, and spans to a collector. A request that ends well is no line.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from fleet import MODEL, Fleet
from programs import BENCH, Program, Programs, cores, get_text, programs, run_load
from report import Options, Report, Table, say

RATE: Final = 75.0
"""To each gateway."""
WARMUP_S: Final = 2.0
SCRAPE_S: Final = 5.0
"""As the chart has it."""
ROLES: Final = {"encode": "encode", "prefill": "prefill", "decode": "decode"}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the gateway: its environment, and whether it counts and is scraped."""

    name: str
    environment: Mapping[str, str]
    counts: bool = True


def ways(collector: str) -> tuple[Way, ...]:
    """Return what is compared; spans go to `collector`, a URL."""
    spans = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector}
    some = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    return (
        Way("nothing", {}, counts=False),
        Way("metrics", {}),
        Way("one trace in ten", {**spans, **some}),
        Way("all traces", {**spans, "OTEL_TRACES_SAMPLER": "parentbased_always_on"}),
    )


def missing() -> str | None:
    """Say why this cannot be measured here."""
    return None


def measure(options: Options) -> Report:
    """Load all gateways at once, round by round."""
    found: dict[str, list[float]] = {}
    with programs() as running:
        sink = running.start("collector", [sys.executable, BENCH / "span_sink.py"], cores()[1])
        compared = ways(f"http://127.0.0.1:{sink.ports()[0]}")
        fleet = Fleet(running)
        fleet.start_simulated(ROLES)
        loads = {
            way.name: Programs(running.folder / way.name.replace(" ", "-")) for way in compared
        }
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}: {RATE:g}/s to each of {len(compared)}")
            first = number % len(compared)
            gateways = {
                way.name: _start(fleet, way) for way in (*compared[first:], *compared[:first])
            }

            def load(
                way: Way, gateways: Mapping[str, tuple[Program, str]] = gateways
            ) -> tuple[str, dict[str, Any]]:
                where = gateways[way.name]
                return way.name, _load(loads[way.name], way, *where, quick=options.quick)

            with ThreadPoolExecutor() as side_by_side:
                for name, figures in side_by_side.map(load, compared):
                    if sum(figures["faults"].values()):
                        say(f"{name}: faults {figures['faults']}")
                    cpu_us = figures["processes"]["gateway"]["cpu_us_per_request"]
                    found.setdefault(name, []).append(cpu_us)
            running.stop(*(gateway for gateway, _ in gateways.values()))
    return _report(found)


def _start(fleet: Fleet, way: Way) -> tuple[Program, str]:
    """Start a gateway of its own over the fleet's roster; return it, and its URL."""
    environment = [f"{name}={value}" for name, value in way.environment.items()]
    program = [sys.executable] if way.counts else [sys.executable, str(BENCH / "quiet_gateway.py")]
    fleet.start_gateway("env", *environment, *program)
    return fleet.gateway, fleet.url


def _load(
    running: Programs, way: Way, gateway: Program, url: str, *, quick: bool
) -> dict[str, Any]:
    running.folder.mkdir(exist_ok=True)
    with _scraped(url if way.counts else ""):
        return run_load(
            running,
            cores()[1],
            url=url,
            model=MODEL,
            rate=RATE,
            duration_s=3.0 if quick else 15.0,
            warmup_s=WARMUP_S,
            image_kib=4,
            expect="simulated",
            pid=[f"gateway={gateway.pid}"],
        )


@contextmanager
def _scraped(url: str) -> Iterator[None]:
    """Read a gateway's metrics as often as a Prometheus does; no URL: never."""
    ended = threading.Event()

    def scrape() -> None:
        while url and not ended.wait(SCRAPE_S):
            get_text(f"{url}/metrics")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _report(found: Mapping[str, list[float]]) -> Report:
    """Compare with *nothing*, round by round: the machine of a round is that of its neighbours."""
    base = found["nothing"]
    rows, figures = [], {}
    for name, took_us in found.items():
        share = median(us / less - 1 for us, less in zip(took_us, base, strict=True))
        cpu_us = median(took_us)
        throughput = 1 / (1 + share) - 1
        figures[name] = {
            "cpu_us_per_request": cpu_us,
            "requests_per_s_per_core": 1e6 / cpu_us,
            "cpu_more_ratio": share,
            "throughput_change_ratio": throughput,
        }
        span = f"{min(took_us):.0f} to {max(took_us):.0f}"
        rows.append((name, cpu_us, span, 1e6 / cpu_us, f"{share:+.1%}", f"{throughput:+.1%}"))
    columns = ("telemetry", "CPU us/request", "rounds", "requests/s/core", "CPU", "throughput")
    title = f"What telemetry costs the gateway, at {RATE:g}/s each, side by side (medians)"
    return Report([Table(title, columns, rows)], figures, dict(found))
