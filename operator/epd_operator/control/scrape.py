"""The signals straight from the programs' `/metrics`, where there is no Prometheus.

What Prometheus would keep is kept here: the counters of the last `window_s` seconds, for as many
programs as run on one machine. A counter that fell was reset, as `rate()` has it.
"""

import asyncio
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from epd_operator.control.ports import MetricsUnavailable
from epd_operator.control.signals import SIGNALS, Labels, Samples, Traffic, traffic_of

_TIMEOUT_S: Final = 2.0

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and sorted labels."""

_READ_BY: Final = {
    series: [(name, query) for name, query in SIGNALS.items() if query.series == series]
    for series in {query.series for query in SIGNALS.values()}
}
"""The signals that a series goes into; a series that is not here is not kept."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """What all targets said at one moment."""

    at_s: float
    targets: Mapping[str, Mapping[Series, float]]


class ScrapedMetrics:
    """Reads the targets anew at each `read`."""

    def __init__(
        self,
        gateways: Callable[[], Iterable[str]],
        workers: Callable[[], Mapping[str, str]],
        window_s: float,
        fetch: Callable[[str], str] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Name the targets.

        Args:
            gateways: Returns the URLs of the gateways' metrics.
            workers: Returns the URLs of the workers' metrics by name.
            window_s: What rates are averaged over.
            fetch: Returns what stands at a URL, or raises OSError; for tests.
            clock: Seconds; for tests.
        """
        self._gateways = gateways
        self._workers = workers
        self._window_s = window_s
        self._fetch = fetch or _get
        self._clock = clock
        self._scrapes: deque[Scrape] = deque()

    async def read(self) -> Traffic:
        """Return the traffic of the last seconds. See `Metrics`."""
        gateways, workers = list(self._gateways()), dict(self._workers())
        urls = [*gateways, *workers.values()]
        texts = await asyncio.gather(*(asyncio.to_thread(self._try, url) for url in urls))
        targets = {url: text for url, text in zip(urls, texts, strict=True) if text is not None}
        if silent := [url for url in gateways if url not in targets]:
            raise MetricsUnavailable(f"{silent[0]} does not answer")
        now = Scrape(self._clock(), {url: _series(text) for url, text in targets.items()})
        self._scrapes.append(now)
        while len(self._scrapes) > 2 and now.at_s - self._scrapes[1].at_s >= self._window_s:
            self._scrapes.popleft()
        elapsed_s = now.at_s - self._scrapes[0].at_s
        if elapsed_s <= 0:
            raise MetricsUnavailable("counting has only begun")
        return traffic_of(
            self._answers(elapsed_s),
            window_s=elapsed_s,
            age_s=0.0,
            workers=frozenset(name for name, url in workers.items() if url in targets),
        )

    def _try(self, url: str) -> str | None:
        try:
            return self._fetch(url)
        except OSError:
            return None

    def _answers(self, elapsed_s: float) -> Samples:
        answers: dict[str, dict[Labels, float]] = {name: {} for name in SIGNALS}
        for url, series in self._scrapes[-1].targets.items():
            for key, value in series.items():
                labels = dict(key[1])
                for name, query in _READ_BY[key[0]]:
                    if query.where.items() - labels.items():
                        continue
                    kept = tuple(labels.get(label, "") for label in query.by)
                    amount = self._increase(url, key) / elapsed_s if query.is_rate else value
                    answers[name][kept] = answers[name].get(kept, 0.0) + amount
        return answers

    def _increase(self, url: str, key: Series) -> float:
        seen = [
            scrape.targets[url][key]
            for scrape in self._scrapes
            if key in scrape.targets.get(url, {})
        ]
        return sum(
            later - earlier if later >= earlier else later for earlier, later in pairwise(seen)
        )


def _series(text: str) -> dict[Series, float]:
    # Most of what a worker tells is its engine's own, and parsing is what costs.
    ours = [line for line in text.splitlines() if _name_of(line) in _READ_BY]
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families("\n".join([*ours, ""]))
        for sample in family.samples
    }


def _name_of(line: str) -> str:
    return line.partition(" ")[0].partition("{")[0]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - ours
        return bytes(answer.read()).decode()
