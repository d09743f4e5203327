"""The signals straight from the programs' `/metrics`, where there is no Prometheus.

What Prometheus would keep is kept here: the counters of the last `window_s` seconds, for as many
programs as run on one machine. A counter that fell was reset, as `rate()` has it.
"""

import asyncio
import urllib.request
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from epd_operator.control.ports import CountingBegun, MetricsUnavailable
from epd_operator.control.signals import SIGNALS, Labels, Samples, Traffic, traffic_of

_TIMEOUT_S: Final = 2.0

_READ_BY: Final = {
    series: [(name, query) for name, query in SIGNALS.items() if query.series == series]
    for series in {query.series for query in SIGNALS.values()}
}
"""The signals that a series goes into; a series that is not here is not kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One series of one target.

    Attributes:
        uses: The signals that it goes into, each with the values of the labels that it keeps.
        is_counter: What counts is its increase.
    """

    uses: Sequence[tuple[str, Labels]]
    is_counter: bool


@dataclass(frozen=True, slots=True)
class Scrape:
    """What all targets said at one moment."""

    at_s: float
    targets: Mapping[str, Mapping[Line, float]]


class ScrapedMetrics:
    """Reads the targets anew at each `read`."""

    def __init__(
        self,
        gateways: Callable[[], Iterable[str]],
        workers: Callable[[], Mapping[str, str]],
        window_s: float,
        fetch: Callable[[str], Awaitable[str]] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Name the targets.

        Args:
            gateways: Returns the URLs of the gateways' metrics.
            workers: Returns the URLs of the workers' metrics by name.
            window_s: What rates are averaged over.
            fetch: Returns what stands at a URL, or raises OSError; a thread for each by default.
            clock: Seconds; for tests.
        """
        self._gateways = gateways
        self._workers = workers
        self._window_s = window_s
        self._fetch = fetch or _get
        self._clock = clock
        self._scrapes: deque[Scrape] = deque()
        self._known: dict[str, dict[str, Line]] = {}

    async def read(self) -> Traffic:
        """Return the traffic of the last seconds. See `Metrics`."""
        gateways, workers = list(self._gateways()), dict(self._workers())
        urls = [*gateways, *workers.values()]
        texts = await asyncio.gather(*(self._try(url) for url in urls))
        targets = {url: text for url, text in zip(urls, texts, strict=True) if text is not None}
        if silent := [url for url in gateways if url not in targets]:
            raise MetricsUnavailable(f"{silent[0]} does not answer")
        lines = {
            url: _lines(text, self._known.setdefault(url, {})) for url, text in targets.items()
        }
        now = Scrape(self._clock(), lines)
        self._scrapes.append(now)
        while len(self._scrapes) > 2 and now.at_s - self._scrapes[1].at_s >= self._window_s:
            self._scrapes.popleft()
        for url in self._known.keys() - {url for each in self._scrapes for url in each.targets}:
            del self._known[url]
        elapsed_s = now.at_s - self._scrapes[0].at_s
        if elapsed_s <= 0:
            raise CountingBegun("counting has only begun")
        return traffic_of(
            self._answers(elapsed_s),
            window_s=elapsed_s,
            age_s=0.0,
            workers=frozenset(name for name, url in workers.items() if url in targets),
        )

    async def _try(self, url: str) -> str | None:
        try:
            return await self._fetch(url)
        except OSError:
            return None

    def _answers(self, elapsed_s: float) -> Samples:
        answers: dict[str, dict[Labels, float]] = {name: {} for name in SIGNALS}
        for url, lines in self._scrapes[-1].targets.items():
            for line, value in lines.items():
                amount = self._increase(url, line) / elapsed_s if line.is_counter else value
                for name, kept in line.uses:
                    answers[name][kept] = answers[name].get(kept, 0.0) + amount
        return answers

    def _increase(self, url: str, line: Line) -> float:
        seen = [
            scrape.targets[url][line]
            for scrape in self._scrapes
            if line in scrape.targets.get(url, {})
        ]
        return sum(
            later - earlier if later >= earlier else later for earlier, later in pairwise(seen)
        )


def _lines(text: str, known: dict[str, Line]) -> dict[Line, float]:
    """Return the lines that go into a signal, with their values.

    Args:
        text: An exposition of ours: its lines have no timestamps.
        known: The lines by what stands before the value: most were there at the last scrape, and
            parsing is what costs. Added to.
    """
    found: dict[Line, float] = {}
    for text_line in text.splitlines():
        # Most of what a worker tells is its engine's own.
        if text_line.partition(" ")[0].partition("{")[0] not in _READ_BY:
            continue
        head, _, value = text_line.rpartition(" ")
        line = known.get(head)
        if line is None:
            line = known[head] = _parsed(text_line)
        if line.uses:
            found[line] = float(value)
    return found


def _parsed(text_line: str) -> Line:
    (family,) = text_string_to_metric_families(f"{text_line}\n")
    (sample,) = family.samples
    queries = [
        (name, query)
        for name, query in _READ_BY[sample.name]
        if not query.where.items() - sample.labels.items()
    ]
    uses = [
        (name, tuple(sample.labels.get(label, "") for label in query.by)) for name, query in queries
    ]
    return Line(uses, any(query.is_rate for _, query in queries))


async def _get(url: str) -> str:
    return await asyncio.to_thread(_get_in_thread, url)


def _get_in_thread(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - ours
        return bytes(answer.read()).decode()
