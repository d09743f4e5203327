"""`gateway`: what our gateway costs, alone on one core, with simulated engines.

200-word prompts, 64 tokens streamed, Poisson arrivals; validation, placement, metrics and limits
on; every stream's text compared with the engine's. Workers and load share the remaining cores.

What a client waits *beyond the engines* is taken request by request (the workers write down what
their engines took until the first token). It holds the worker's gRPC, the wire and the load's own
delays as well; a load without a gateway, gRPC straight to the same workers, shows how much that is.
*Added* TTFT is the difference of the two, percentile by percentile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rising
from fleet import EVERY_STAGE, MODEL, Fleet
from foreign_load import run_foreign_load
from programs import cores, memory_mib, programs, run_direct_load, run_load
from report import Options, Report, Table, say
from statistic import added_ms, distribution, median_of

WARMUP_S = 2.5
"""Longer than an answer takes, so that the load is level when counting begins."""
SLOW_STEP_MS = 250
STREAMS = 2000
STAGE_PODS = {"encode": "encode", "prefill": "prefill", "decode": "decode"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way for a request through the fleet."""

    name: str
    roles: Mapping[str, str]
    rate: float
    image_kib: int = 0
    target_per_s: int | None = None


SCENARIOS = (
    Scenario("one pod", {"every": EVERY_STAGE}, 300, target_per_s=800),
    Scenario("prefill>decode, text", STAGE_PODS, 300),
    Scenario("encode>prefill>decode", STAGE_PODS, 300, image_kib=4, target_per_s=500),
    Scenario("encode>prefill>decode, 128 KiB image", STAGE_PODS, 100, image_kib=128),
)


def missing() -> str | None:
    """Say why this cannot be measured here."""
    return None


def measure(options: Options) -> Report:
    """Measure every scenario in turn, round by round."""
    report = Report()
    duration_s = 5.0 if options.quick else 12.0
    scenarios = SCENARIOS[:3] if options.quick else SCENARIOS
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for scenario in scenarios:
            say(f"round {number + 1}: {scenario.name}, {scenario.rate:g}/s")
            figures = run_once(scenario, scenario.rate, duration_s, options, with_direct=True)
            found.setdefault(scenario.name, []).append(figures)
    climbs = {s.name: _climb(s, options) for s in scenarios[:3:2]}
    streams = hold_streams(options)
    report.raw = {"fixed_rate": found, "rising_rate": climbs, "streams": streams}
    report.figures = {
        "fixed_rate": {s.name: _medians(s, found[s.name]) for s in scenarios},
        "rising_rate": {name: rising.highest(steps) for name, steps in climbs.items()},
        "streams": streams["summary"],
    }
    report.tables = [
        _cost_table(scenarios, report.figures["fixed_rate"]),
        rising.table(climbs),
        _streams_table(streams["summary"]),
    ]
    return report


def run_once(
    scenario: Scenario,
    rate: float,
    duration_s: float,
    options: Options,
    *,
    eager_every: int = 1,
    with_direct: bool = False,
) -> dict[str, Any]:
    """Start a fleet, load it (`with_direct` first without the gateway), and return the figures."""
    with programs() as running:
        fleet = Fleet(running)
        fleet.start_simulated(scenario.roles)
        direct = _direct(fleet, scenario, rate, duration_s) if with_direct else None
        fleet.start_gateway()
        if options.loadgen is not None and not scenario.image_kib:
            figures = run_foreign_load(
                running, cores()[1], options.loadgen, fleet.url, MODEL, rate, duration_s,
                fleet.pids(),
            )  # fmt: skip
        else:
            figures = run_load(
                running,
                cores()[1],
                url=fleet.url,
                model=MODEL,
                rate=rate,
                duration_s=duration_s,
                warmup_s=WARMUP_S,
                image_kib=scenario.image_kib,
                expect="simulated",
                eager_every=eager_every,
                pid=fleet.pids(),
            )
            waited_ms = figures.pop("ttft_ms_by_id")
            figures["beyond_engine_ms"] = distribution(added_ms(waited_ms, fleet.engine_ms()))
            figures["direct_beyond_engine_ms"] = direct
        figures["gateway_memory_mib"] = memory_mib(fleet.gateway.pid)
        figures["placements"] = fleet.counter("epd_placements_total")
        figures["overflows"] = fleet.counter("epd_overflows_total")
        figures["frames"] = sum(fleet.counter("epd_worker_frames_total").values())
        figures["events"] = sum(fleet.counter("epd_worker_events_total").values())
    return figures


def _direct(
    fleet: Fleet, scenario: Scenario, rate: float, duration_s: float
) -> dict[str, float] | None:
    """Return what a client without a gateway waits beyond the engines."""
    addresses = [fleet.addresses[name] for name in scenario.roles]
    waited_ms = run_direct_load(
        fleet.programs,
        cores()[1],
        pods=",".join(addresses),
        model=MODEL,
        rate=rate,
        duration_s=duration_s,
        warmup_s=WARMUP_S,
        image_kib=scenario.image_kib,
    )
    return distribution(added_ms(waited_ms, fleet.engine_ms()))


def _medians(scenario: Scenario, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    cpu_us = median_of(rounds, "processes", "gateway", "cpu_us_per_request")
    return {
        "rate_per_s": scenario.rate,
        "gateway_cpu_us_per_request": cpu_us,
        "requests_per_s_per_core": 1e6 / cpu_us if cpu_us else None,
        "target_per_s_per_core": scenario.target_per_s,
        **_added_ttft(rounds),
        "ttft_ms_p50": median_of(rounds, "ttft_ms", "p50"),
        "gateway_peak_rss_mib": median_of(rounds, "gateway_memory_mib", "peak_rss"),
        "worker_cpu_us_per_request": {
            name: median_of(rounds, "processes", name, "cpu_us_per_request")
            for name in scenario.roles
        },
        "load_cpu_us_per_request": median_of(rounds, "processes", "load", "cpu_us_per_request"),
        "faults": sum(sum(figures["faults"].values()) for figures in rounds),
        "requests": sum(figures["sent"] for figures in rounds),
    }


def _added_ttft(rounds: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return, at two percentiles, what a client waits beyond the engines, and the gateway's part.

    The part is the difference to the direct load's own percentile.
    """
    found: dict[str, float | None] = {}
    for name in ("p50", "p99"):
        beyond_ms = median_of(rounds, "beyond_engine_ms", name)
        direct_ms = median_of(rounds, "direct_beyond_engine_ms", name)
        known = beyond_ms is not None and direct_ms is not None
        found[f"beyond_engine_ms_{name}"] = beyond_ms
        found[f"direct_beyond_engine_ms_{name}"] = direct_ms
        found[f"added_ttft_ms_{name}"] = beyond_ms - direct_ms if known else None
    return found


def _climb(scenario: Scenario, options: Options) -> list[dict[str, Any]]:
    """Raise the rate until the gateway's core is full, or the other side's cores are."""

    def at(rate: float) -> dict[str, Any]:
        say(f"rising rate: {scenario.name}, {rate:g}/s")
        return run_once(scenario, rate, rising.DURATION_S, options, eager_every=16)

    return list(rising.climb(at, "gateway", rising.RATES[: 2 if options.quick else None]))


def hold_streams(options: Options) -> dict[str, Any]:
    """Open 2,000 slow streams, hold all of them, and see them end."""
    say(f"{STREAMS} streams at once, a token every {SLOW_STEP_MS} ms")
    slow = [f"decode_step.batch_ms=[[1, {SLOW_STEP_MS}]]", f"prefill_ms=[[0, {SLOW_STEP_MS}]]"]
    opening_s, tokens = 5.0, 24 if options.quick else 64
    with programs() as running:
        fleet = Fleet(running)
        fleet.start_simulated({"every": EVERY_STAGE}, *slow)
        fleet.start_gateway()
        idle_mib = memory_mib(fleet.gateway.pid)["rss"]
        figures = run_load(
            running,
            cores()[1],
            url=fleet.url,
            model=MODEL,
            rate=1.01 * STREAMS / opening_s,
            duration_s=opening_s,
            warmup_s=0,
            timeout_s=90,
            max_tokens=tokens,
            expect="simulated",
            eager_every=16,
            pid=fleet.pids(),
        )
        del figures["ttft_ms_by_id"]
        figures["gateway_memory_mib"] = memory_mib(fleet.gateway.pid)
    summary = {
        "sent": figures["sent"],
        "peak_streams": figures["peak_streams"],
        "complete": figures["ok"],
        "faults": figures["faults"],
        "gap_ms_p50": (figures["gap_ms"] or {}).get("p50"),
        "gap_ms_p99": (figures["gap_ms"] or {}).get("p99"),
        "idle_rss_mib": idle_mib,
        "peak_rss_mib": figures["gateway_memory_mib"]["peak_rss"],
    }
    return {"summary": summary, "figures": figures}


def _cost_table(scenarios: tuple[Scenario, ...], medians: Mapping[str, Any]) -> Table:
    columns = (
        "scenario", "rate/s", "CPU us/request", "requests/s/core", "target", "added TTFT p50",
        "p99 ms", "beyond engine p50", "p99 ms", "peak MiB", "workers us", "load us", "faults",
    )  # fmt: skip
    rows = []
    for scenario in scenarios:
        m = medians[scenario.name]
        workers_us = sum(us or 0.0 for us in m["worker_cpu_us_per_request"].values())
        rows.append(
            (
                scenario.name,
                scenario.rate,
                m["gateway_cpu_us_per_request"],
                m["requests_per_s_per_core"],
                m["target_per_s_per_core"],
                m["added_ttft_ms_p50"],
                m["added_ttft_ms_p99"],
                m["beyond_engine_ms_p50"],
                m["beyond_engine_ms_p99"],
                m["gateway_peak_rss_mib"],
                workers_us,
                m["load_cpu_us_per_request"],
                m["faults"],
            )
        )
    return Table("Gateway at a fixed rate (medians of the rounds)", columns, rows)


def _streams_table(summary: Mapping[str, Any]) -> Table:
    names = ("peak_streams", "complete", "sent", "gap_ms_p50", "gap_ms_p99", "peak_rss_mib")
    columns = ("", "peak", "complete", "of", "gap p50", "p99 ms", "peak MiB")
    row = ("streams at once", *(summary[name] for name in names))
    return Table(f"Held streams, a token every {SLOW_STEP_MS} ms", columns, [row])
