"""Another load generator in place of ours: `llmload`, or what takes its flags and says as much."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from programs import MeasurementError, Programs


def command(
    loadgen: Path, url: str, model: str, rate: float, duration_s: float, pids: Sequence[str]
) -> list[str]:
    """Return the command line of one run of streamed text requests."""
    given = [str(loadgen), "-url", url, "-model", model, "-rate", str(rate), "-verify=false"]
    given += ["-duration", f"{duration_s:g}s", "-warmup", "2500ms", "-timeout", "30s"]
    return [*given, "-max-tokens", "64", "-prompt-tokens", "200", "-pid", ",".join(pids)]


def figures(said: dict[str, Any]) -> dict[str, Any]:
    """Return its JSON in the words of `load.py`, as far as it has them."""
    faults = {name: said[name] for name in ("errors", "incomplete", "altered") if said.get(name)}
    window_s = said["window_s"]
    processes = {
        name: {
            "cores": used["cpu_share"],
            "cpu_us_per_request": used.get("cpu_us_per_req"),
            "rss_mib_max": used["peak_rss_mb"],
        }
        for name, used in said["procs"].items()
    }
    processes["load"] = {"cores": said["self_cpu_share"], "rss_mib_max": None}
    return {
        "offered_per_s": said["offered_rate"],
        "window_s": window_s,
        "sent": said["sent"],
        "ok": said["ok"],
        "faults": faults,
        "done_per_s": said["done_in_window"] / window_s,
        "ttft_ms": said["ttft_ms"],
        "gap_ms": said["gap_ms"],
        "duration_ms": said["e2e_ms"],
        "dispatch_lag_ms": said["dispatch_lag_ms"],
        "processes": processes,
    }


def run_foreign_load(
    programs: Programs,
    cpus: set[int],
    loadgen: Path,
    url: str,
    model: str,
    rate: float,
    duration_s: float,
    pids: Sequence[str],
) -> dict[str, Any]:
    """Run it and return its figures."""
    line = command(loadgen, url, model, rate, duration_s, pids)
    load = programs.start("loadgen", line, cpus)
    status = load.wait()
    programs.stop(load)
    if status != 0:
        raise MeasurementError(f"{loadgen.name} failed: {load.last_line()}")
    return figures(json.loads(load.last_line()))
