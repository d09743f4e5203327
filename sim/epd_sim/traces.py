"""Public request traces as workloads. None is shipped: each reader says where its trace comes from.

`find_trace` looks for a trace by name in the usual places; a reader of a file that is not there
raises `TraceError` with one line, and whoever can do without it skips.
"""

import ast
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import gamma
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epd_sim.workload import Request, Shape

PLACES: Final = (Path("traces"), Path("../shared/traces"))
AZURE_CODE: Final = "azure-2023/AzureLLMInferenceTrace_code.csv"
MOONCAKE: Final = "mooncake_synthetic_trace.jsonl"
SERVEGEN_IMAGE: Final = "servegen-mm-image"

_WINDOW_S: Final = 600.0


class TraceError(Exception):
    """A trace is missing or unreadable; the message says which and what to do."""


def find_trace(name: str, places: Sequence[Path] = PLACES) -> Path:
    """Return where a trace lies.

    Raises:
        TraceError: Nowhere.
    """
    for place in places:
        if (place / name).exists():
            return place / name
    looked = ", ".join(str(place) for place in places)
    raise TraceError(f"trace {name} is in none of {looked}; put it there, or give its path")


def azure(path: Path) -> list[Request]:
    """Read an Azure LLM inference trace: TIMESTAMP, ContextTokens, GeneratedTokens (CC-BY 4.0).

    Raises:
        TraceError: It cannot be read.
    """
    requests: list[Request] = []
    start: datetime | None = None
    for number, row in enumerate(_csv_rows(path)):
        if number == 0:
            continue
        try:
            when = datetime.fromisoformat(row[0][:26])
            shape = Shape(max(1, int(row[1])), max(1, int(row[2])))
        except (IndexError, ValueError):
            raise TraceError(f"{path}: line {number + 1}: time, tokens, tokens expected") from None
        start = start or when
        requests.append(Request(len(requests), (when - start).total_seconds(), shape))
    return sorted(requests, key=lambda request: request.arrival_s)


def mooncake(path: Path) -> list[Request]:
    """Read a Mooncake trace: JSON lines of timestamp (ms), input_length, output_length.

    Hashes of prefix blocks are its `prefix_keys`.

    Raises:
        TraceError: It cannot be read.
    """
    requests: list[Request] = []
    for number, line in enumerate(_lines(path)):
        try:
            entry = json.loads(line)
            shape = Shape(
                max(1, entry["input_length"]),
                max(1, entry["output_length"]),
                prefix_keys=tuple(entry.get("hash_ids", ())),
            )
            requests.append(Request(number, entry["timestamp"] / 1e3, shape))
        except (KeyError, TypeError, ValueError):
            raise TraceError(f"{path}: line {number + 1} is no request of a trace") from None
    return requests


def servegen(
    folder: Path, seed: int, *, from_s: float = 0.0, seconds: float = 3600.0, rate: float = 1.0
) -> list[Request]:
    """Draw requests of ServeGen's clients (Apache-2.0): windows of ten minutes, one day.

    Each client has, for every window, a rate and a distribution of gaps, and for every six hours
    distributions of lengths. Windows without a client's lengths have none of its requests.

    Args:
        folder: With chunk-N-trace.csv and chunk-N-dataset.json for every client N.
        seed: Of the draw.
        from_s: Where in the day to begin.
        seconds: How long.
        rate: Multiplies every client's rate.

    Raises:
        TraceError: It cannot be read.
    """
    traces = sorted(folder.glob("chunk-*-trace.csv"))
    if not traces:
        raise TraceError(f"{folder}: no chunk-N-trace.csv; a folder of ServeGen was expected")
    found: list[tuple[float, int, Shape]] = []
    for client, trace in enumerate(traces):
        rng = np.random.default_rng((seed, client))
        lengths = _Lengths(Path(str(trace).replace("-trace.csv", "-dataset.json")))
        for row in _csv_rows(trace):
            try:
                window_s, window_rate, pattern = float(row[0]), float(row[1]) * rate, row[3]
                shape_factor = float(row[4]) if pattern else 1.0
            except (IndexError, ValueError):
                raise TraceError(f"{trace}: {row}: a window of ServeGen was expected") from None
            if window_rate <= 0 or not from_s - _WINDOW_S < window_s < from_s + seconds:
                continue
            for at_s in _arrivals(window_rate, pattern, shape_factor, rng):
                now_s = window_s + at_s - from_s
                shape = lengths.draw(window_s, rng) if 0 <= now_s < seconds else None
                if shape is not None:
                    found.append((now_s, client, shape))
    found.sort(key=lambda entry: entry[:2])
    return [Request(i, at_s, shape) for i, (at_s, _, shape) in enumerate(found)]


def _arrivals(rate: float, pattern: str, shape: float, rng: np.random.Generator) -> Iterator[float]:
    """Yield times within a window, gaps by the window's distribution, set to its rate."""
    now_s = 0.0
    while True:
        if pattern == "Gamma":
            now_s += float(rng.gamma(shape, 1 / (rate * shape)))
        elif pattern == "Weibull":
            now_s += float(rng.weibull(shape)) / (rate * gamma(1 + 1 / shape))
        else:
            now_s += float(rng.exponential(1 / rate))
        if now_s >= _WINDOW_S:
            return
        yield now_s


@dataclass(frozen=True, slots=True)
class _Choice:
    values: list[int]
    cumulated: NDArray[np.float64]

    def draw(self, rng: np.random.Generator) -> int:
        place = int(np.searchsorted(self.cumulated, rng.random() * self.cumulated[-1]))
        return self.values[min(place, len(self.values) - 1)]


class _Lengths:
    """The lengths of one client's requests, for every six hours."""

    _FIELDS: Final = ("text_tokens", "image_tokens", "image_count", "output_tokens")

    def __init__(self, path: Path) -> None:
        try:
            tables = json.loads("".join(_lines(path)))
            self._tables = {
                float(start): {field: _choice(table[field]) for field in self._FIELDS}
                for start, table in tables.items()
            }
        except (KeyError, SyntaxError, TypeError, ValueError):
            raise TraceError(f"{path}: distributions of ServeGen were expected") from None

    def draw(self, at_s: float, rng: np.random.Generator) -> Shape | None:
        start = max((start for start in self._tables if start <= at_s), default=None)
        if start is None:
            return None
        table = self._tables[start]
        text, output = table["text_tokens"].draw(rng), table["output_tokens"].draw(rng)
        images = [table["image_tokens"].draw(rng) for _ in range(table["image_count"].draw(rng))]
        images = [tokens for tokens in images if tokens > 0]
        if not output and not text and not images:
            return None
        return Shape(max(1, text), max(1, output), tuple(images))


def _choice(text: str) -> _Choice:
    table: dict[int, float] = ast.literal_eval(text)
    return _Choice([int(value) for value in table], np.cumsum(list(table.values())))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TraceError(f"trace {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"trace {path}: not text") from None


def _csv_rows(path: Path) -> list[list[str]]:
    return list(csv.reader(_lines(path)))
