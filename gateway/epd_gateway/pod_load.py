"""Keeps one pod's view current: what it reports, and what was placed on it since.

A report is old when it arrives, and other gateways place work as well. The work outstanding on a
pod is therefore the larger of our own calls in flight and the last report changed by what this
gateway has started and seen end since.
"""

from typing import Final

from epd.policy.pods import PodView
from epd.vocabulary import Stage
from epd.wire.messages import Load, StageLoad

# Means are over about so many pieces. Answers differ by a factor of ten: over a few of them, a pod
# whose last ones were short would seem quick, and be given twice as many as its neighbours.
_MEMORY: Final = {Stage.ENCODE: 20, Stage.PREFILL: 20, Stage.DECODE: 1000}
_STAGES: Final = tuple(Stage)


class _StageBook:
    """Counts of one stage."""

    __slots__ = (
        "finished_total",
        "ours",
        "reported",
        "service_us_total",
        "since_report",
        "tokens_total",
    )

    def __init__(self) -> None:
        self.ours = 0
        self.reported = 0
        self.since_report = 0
        self.finished_total = 0
        self.service_us_total = 0
        self.tokens_total = 0

    @property
    def outstanding(self) -> int:
        return max(self.ours, self.reported + self.since_report)


class LoadBook:
    """The load of one pod, written into its view.

    Attributes:
        view: The view that placement reads.
        latest: The last report; None before the first.
    """

    __slots__ = ("_books", "latest", "view")

    def __init__(self, view: PodView) -> None:
        self.view = view
        self.latest: Load | None = None
        self._books = {stage: _StageBook() for stage in _STAGES}

    def in_flight(self, stage: Stage) -> int:
        """Return this gateway's own calls of a stage."""
        return self._books[stage].ours

    def start(self, stage: Stage) -> None:
        """Count a call that was placed."""
        self._count(stage, 1)

    def end(self, stage: Stage) -> None:
        """Count a call that ended, however it did."""
        self._count(stage, -1)

    def report(self, load: Load) -> None:
        """Take what the pod says of itself."""
        self.latest = load
        self.view.kv_used_permille = load.kv_used_permille
        for stage, reported in (
            (Stage.ENCODE, load.encode),
            (Stage.PREFILL, load.prefill),
            (Stage.DECODE, load.decode),
        ):
            book, view = self._books[stage], self.view.loads[stage]
            book.reported = reported.waiting + reported.running
            book.since_report = 0
            view.waiting = reported.waiting
            view.outstanding = book.outstanding
            self._learn_service_time(stage, reported)

    def forget_reports(self) -> None:
        """Start anew: the pod's process is another one, or gone."""
        self.latest = None
        for stage in _STAGES:
            ours = self._books[stage].ours
            self._books[stage] = book = _StageBook()
            book.ours = ours
            self.view.loads[stage].outstanding = ours
            self.view.loads[stage].waiting = 0

    def _count(self, stage: Stage, change: int) -> None:
        book = self._books[stage]
        book.ours += change
        book.since_report += change
        self.view.loads[stage].outstanding = book.outstanding

    def _learn_service_time(self, stage: Stage, reported: StageLoad) -> None:
        book, view = self._books[stage], self.view.loads[stage]
        finished = reported.finished_total - book.finished_total
        if finished <= 0:
            return
        tokens = (reported.tokens_total - book.tokens_total) / finished
        sample_ms = (reported.service_us_total - book.service_us_total) / finished / 1000
        book.finished_total = reported.finished_total
        book.service_us_total = reported.service_us_total
        book.tokens_total = reported.tokens_total
        if not view.service_ms:
            view.service_ms, view.tokens, view.batch = sample_ms, tokens, float(reported.running)
            return
        weight = finished / min(book.finished_total, finished + _MEMORY[stage])
        view.service_ms += weight * (sample_ms - view.service_ms)
        view.tokens += weight * (tokens - view.tokens)
        view.batch += weight * (reported.running - view.batch)
