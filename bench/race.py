"""`race`: our gateway beside SMG and vllm-router, under the same load, in turns.

Each gateway is alone on one core, in front of two workers that emit a token every 20 ms: ours in
front of simulated engines (gRPC, a frame per engine step), the rivals in front of a mock that
speaks OpenAI's HTTP, stepping likewise. "no gateway" is the load straight at one mock: what the
load generator and the mock themselves take. The first contestant is the one that ratios refer to.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rising
from fleet import EVERY_STAGE, Fleet
from foreign_load import run_foreign_load
from programs import (
    BENCH,
    Program,
    Programs,
    cores,
    memory_mib,
    programs,
    run_load,
)
from report import Options, Report, Table, say
from statistic import added_ms, distribution, median_of

from epd_operator import local_ports

RATES = (300, 500)
WORKERS = 2
RIVALS = ("smg", "vllm-router")
_STEP = ["--ttft-ms", "1", "--step-ms", "20"]


@dataclass(frozen=True, slots=True)
class Target:
    """Something under load; `engine_ms` tells what the engines took, by response id."""

    url: str
    model: str
    expect: str
    subject: Program | None
    others: Mapping[str, Program]
    engine_ms: Callable[[Mapping[str, float]], Mapping[str, float]] = field(default=lambda _: {})

    def pids(self) -> list[str]:
        """Return NAME=PID of everything."""
        named = {**({"gateway": self.subject} if self.subject else {}), **self.others}
        return [f"{name}={program.pid}" for name, program in named.items()]


def missing() -> str | None:
    """Say why this cannot be measured here."""
    if any(_rival(name) for name in RIVALS):
        return None
    return "neither smg nor vllm-router is installed; `make bench-race` installs them"


def measure(options: Options) -> Report:
    """Run the contestants in turns, at fixed rates, then at a rising one."""
    contestants = _contestants(options)
    duration_s = 6.0 if options.quick else 12.0
    found: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in contestants}
    for number in range(options.rounds):
        for rate in RATES[: 1 if options.quick else None]:
            for name, start in contestants.items():
                say(f"round {number + 1}: {name}, {rate}/s")
                figures = _run(start, rate, duration_s, options)
                found[name].setdefault(rate, []).append(figures)
    climbs = {} if options.quick else {n: _climb(n, s, options) for n, s in contestants.items()}
    report = Report(raw={"fixed_rate": found, "rising_rate": climbs})
    medians = {
        name: {rate: _medians(rounds) for rate, rounds in by_rate.items()}
        for name, by_rate in found.items()
    }
    report.figures = {
        "medians": medians,
        "ours_over": _ratios(medians),
        "rising_rate": {name: rising.highest(steps) for name, steps in climbs.items()},
    }
    report.tables = [_table(medians), *([rising.table(climbs)] if climbs else [])]
    return report


def _contestants(options: Options) -> dict[str, Callable[[Programs], Target]]:
    """Return how to start each, by name; says which rivals are missing."""
    found: dict[str, Callable[[Programs], Target]] = {
        "ours": lambda running: _ours(running, {"w0": EVERY_STAGE, "w1": EVERY_STAGE}),
        "ours, prefill>decode": lambda running: _ours(
            running, {"w0": "encode-prefill", "w1": "decode"}
        ),
    }
    for name in RIVALS:
        program = _rival(name)
        if program is None:
            say(f"{name} is not installed; it does not take part")
            continue
        found[name] = lambda running, name=name, program=program: _behind(
            running, name, program, options.mockllm
        )
    found["no gateway"] = lambda running: _mock_alone(running, options.mockllm)
    return found


def _rival(name: str) -> Path | None:
    beside = Path(sys.executable).with_name(name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    return Path(found) if found else None


def _ours(running: Programs, roles: Mapping[str, str]) -> Target:
    fleet = Fleet(running)
    fleet.start_simulated(roles)
    fleet.start_gateway()
    return Target(
        fleet.url,
        fleet.model,
        "simulated",
        fleet.gateway,
        fleet.workers,
        lambda _: fleet.engine_ms(),
    )


def _behind(running: Programs, name: str, program: Path, mockllm: Path | None) -> Target:
    """Start a rival in front of mocks."""
    mocks = {f"mock{index}": _mock(running, index, mockllm) for index in range(WORKERS)}
    port, metrics_port = (local_ports.free_block(1, "127.0.0.1") for _ in range(2))
    command: list[str | Path] = [program, *(["launch"] if name == "smg" else [])]
    command += ["--worker-urls", *(url for _, url in mocks.values())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--prometheus-port", str(metrics_port)]
    router = running.start(name, command, cores()[0])
    url = f"http://127.0.0.1:{port}"
    router.wait_for(lambda: _answers(url), "answer through it")
    others = {mock: mocked[0] for mock, mocked in mocks.items()}
    return Target(url, "mock", _expected(mockllm), router, others, engine_ms_of_mock)


def _mock_alone(running: Programs, mockllm: Path | None) -> Target:
    mock, url = _mock(running, 0, mockllm)
    return Target(url, "mock", _expected(mockllm), None, {"mock0": mock}, engine_ms_of_mock)


def _expected(mockllm: Path | None) -> str:
    return "mock" if mockllm is None else "any"


def _mock(running: Programs, index: int, mockllm: Path | None) -> tuple[Program, str]:
    port = local_ports.free_block(1, "127.0.0.1")
    if mockllm is None:
        command = [sys.executable, BENCH / "mock_openai.py", "--port", str(port), *_STEP]
    else:
        command = [mockllm, "-port", str(port), "-ttft", "20ms", "-tpot", "20ms", "-tokens", "64"]
    mock = running.start(f"mock{index}", command, cores()[1])
    url = f"http://127.0.0.1:{port}"
    mock.wait_for(lambda: _answers(url), "answer")
    return mock, url


def _answers(url: str) -> bool:
    import httpx

    body = {"model": "mock", "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 2}
    try:
        answer = httpx.post(
            f"{url}/v1/chat/completions", json={**body, "stream": True}, trust_env=False, timeout=5
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def engine_ms_of_mock(ids: Mapping[str, float]) -> dict[str, float]:
    """Return what the mock took until the first token; its ids say it."""
    took: dict[str, float] = {}
    for identifier in ids:
        us = identifier.rpartition("-")[2]
        if us.isdecimal() and identifier.count("-") == 2:
            took[identifier] = int(us) / 1000
    return took


def _run(
    start: Callable[[Programs], Target],
    rate: float,
    duration_s: float,
    options: Options,
    eager_every: int = 1,
) -> dict[str, Any]:
    with programs() as running:
        target = start(running)
        if options.loadgen is not None:
            figures = run_foreign_load(
                running, cores()[1], options.loadgen, target.url, target.model, rate, duration_s,
                target.pids(),
            )  # fmt: skip
        else:
            figures = run_load(
                running,
                cores()[1],
                url=target.url,
                model=target.model,
                rate=rate,
                duration_s=duration_s,
                warmup_s=2.5,
                expect=target.expect,
                eager_every=eager_every,
                pid=target.pids(),
            )
            waited_ms = figures.pop("ttft_ms_by_id")
            beyond_ms = added_ms(waited_ms, target.engine_ms(waited_ms))
            figures["beyond_engine_ms"] = distribution(beyond_ms)
        if target.subject is not None:
            figures["memory_mib"] = memory_mib(target.subject.pid)
    return figures


def _climb(
    name: str, start: Callable[[Programs], Target], options: Options
) -> list[dict[str, Any]]:
    def at(rate: float) -> dict[str, Any]:
        say(f"rising rate: {name}, {rate:g}/s")
        return _run(start, rate, rising.DURATION_S, options, eager_every=16)

    return list(rising.climb(at, "gateway"))


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    cpu_us = median_of(rounds, "processes", "gateway", "cpu_us_per_request")
    return {
        "cpu_us_per_request": cpu_us,
        "requests_per_s_per_core": 1e6 / cpu_us if cpu_us else None,
        "beyond_engine_ms_p50": median_of(rounds, "beyond_engine_ms", "p50"),
        "beyond_engine_ms_p99": median_of(rounds, "beyond_engine_ms", "p99"),
        "ttft_ms_p50": median_of(rounds, "ttft_ms", "p50"),
        "ttft_ms_p99": median_of(rounds, "ttft_ms", "p99"),
        "gap_ms_p99": median_of(rounds, "gap_ms", "p99"),
        "peak_rss_mib": median_of(rounds, "memory_mib", "peak_rss"),
        "faults": sum(sum(figures["faults"].values()) for figures in rounds),
    }


def _ratios(medians: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return our requests per second and core over each rival's, by rate."""
    ours = medians["ours"]
    name = "requests_per_s_per_core"
    return {
        rival: {rate: ours[rate][name] / figures[name] for rate, figures in by_rate.items()}
        for rival, by_rate in medians.items()
        if all(figures[name] for figures in by_rate.values()) and rival != "ours"
    }


def _table(medians: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Table:
    columns = (
        "gateway", "rate/s", "CPU us/request", "requests/s/core", "ours/this", "beyond engine p50",
        "p99 ms", "TTFT p50", "p99 ms", "gap p99", "peak MiB", "faults",
    )  # fmt: skip
    ratios = _ratios(medians)
    names = (
        "beyond_engine_ms_p50", "beyond_engine_ms_p99", "ttft_ms_p50", "ttft_ms_p99",
        "gap_ms_p99", "peak_rss_mib", "faults",
    )  # fmt: skip
    rows = [
        (
            name,
            rate,
            figures["cpu_us_per_request"],
            figures["requests_per_s_per_core"],
            ratios.get(name, {}).get(rate),
            *(figures[each] for each in names),
        )
        for name, by_rate in medians.items()
        for rate, figures in by_rate.items()
    ]
    return Table("Gateways in turns, one core each (medians of the rounds)", columns, rows)
