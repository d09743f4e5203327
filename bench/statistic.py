"""Numbers about numbers: percentiles, medians over rounds, and what a request took beyond a part.

Nothing here measures; every function is pure.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

PERCENTILES = (50, 90, 99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted numbers: the smallest one that is not below `percent` %."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def distribution(numbers: Sequence[float]) -> dict[str, float] | None:
    """Return count, mean, percentiles and maximum; None of nothing."""
    if not numbers:
        return None
    ordered = sorted(numbers)
    return {
        "count": len(ordered),
        "mean": statistics.fmean(ordered),
        **{f"p{percent}": percentile(ordered, percent) for percent in PERCENTILES},
        "max": ordered[-1],
    }


def added_ms(
    ttft_ms_by_id: Mapping[str, float], engine_ms_by_id: Mapping[str, float]
) -> list[float]:
    """Return, for each request known to both, what the client waited beyond the engine's time."""
    return [
        waited_ms - engine_ms_by_id[identifier]
        for identifier, waited_ms in ttft_ms_by_id.items()
        if identifier in engine_ms_by_id
    ]


def median_of(rounds: Sequence[Mapping[str, Any]], *path: str) -> float | None:
    """Return the median over rounds of the number at `path`; None where no round has it."""
    found = []
    for figures in rounds:
        value: Any = figures
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(float(value))
    return statistics.median(found) if found else None
