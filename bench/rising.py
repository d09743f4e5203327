"""A rate that rises until something is full: the gateway's core, the other side's, or patience."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from programs import cores
from report import Table

RATES = (500, 700, 900, 1100, 1300, 1500)
DURATION_S = 8.0
SATURATED_SHARE = 0.95
LEAST_SHARE_DONE = 0.93
"""Of the offered rate: less than that done in time means that requests pile up."""


def climb(
    run: Callable[[float], dict[str, Any]], subject: str, rates: Sequence[int] = RATES
) -> Iterator[dict[str, Any]]:
    """Yield the figures at each rate up to the one that is too much, `limit` said in each.

    Args:
        run: Loads at a rate; its figures have `processes`.
        subject: Name of the process that is alone on its core.
        rates: Requests a second, rising.
    """
    for rate in rates:
        figures = run(rate)
        used = {name: process["cores"] for name, process in figures["processes"].items()}
        figures["subject_cores"] = used.pop(subject, 0.0)
        figures["other_cores"] = sum(used.values())
        figures["cpu_us_per_request"] = (
            figures["processes"].get(subject, {}).get("cpu_us_per_request")
        )
        figures["limit"] = limit_of(figures, rate)
        yield figures
        if figures["limit"]:
            return


def limit_of(figures: dict[str, Any], rate: float) -> str | None:
    """Name what was full; None while there was room."""
    own, others = cores()
    if figures["subject_cores"] > SATURATED_SHARE * len(own):
        return "gateway"
    if figures["other_cores"] > SATURATED_SHARE * len(others):
        return "load and workers"
    if figures["faults"] or figures["done_per_s"] < LEAST_SHARE_DONE * rate:
        return "machine"
    return None


def highest(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the step with the most requests done."""
    best = max(steps, key=lambda figures: figures["done_per_s"])
    names = ("done_per_s", "subject_cores", "cpu_us_per_request")
    return {**{name: best[name] for name in names}, "limit": steps[-1]["limit"]}


def table(climbs: dict[str, list[dict[str, Any]]]) -> Table:
    """Return every step of every climb."""
    columns = (
        "", "offered/s", "done/s", "gateway cores", "CPU us/request", "other cores", "TTFT p50",
        "p99 ms", "faults", "limit",
    )  # fmt: skip
    rows = [
        (
            name,
            step["offered_per_s"],
            step["done_per_s"],
            step["subject_cores"],
            step["cpu_us_per_request"],
            step["other_cores"],
            (step["ttft_ms"] or {}).get("p50"),
            (step["ttft_ms"] or {}).get("p99"),
            sum(step["faults"].values()),
            step["limit"],
        )
        for name, steps in climbs.items()
        for step in steps
    ]
    return Table("Rising rate, until one side's cores are full", columns, rows)
