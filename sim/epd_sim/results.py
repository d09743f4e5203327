"""What a run showed: TTFT, both TPOTs, attainment, goodput. Seconds in, milliseconds out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique

import numpy as np
from numpy.typing import NDArray

from epd_sim.calls import Call

Column = NDArray[np.float64]


@unique
class Tpot(StrEnum):
    """The two TPOTs of the field. They rank systems differently, so each figure names its own."""

    MEAN = "mean"  # mean gap of a request, waits included (Arrow)
    P90 = "p90"  # 90th percentile of a request's own gaps (HydraInfer)


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must meet to count as good.

    Attributes:
        ttft_ms: Time to first token.
        tpot_ms: Time per further token.
        tpot: Which TPOT is meant.
        attainment: Share of requests that must be good.
    """

    ttft_ms: float
    tpot_ms: float
    tpot: Tpot = Tpot.MEAN
    attainment: float = 0.9


def gap_p90_ms(gaps_s: Column) -> float:
    """Return the 90th percentile of gaps in milliseconds, interpolated as numpy does."""
    rank = 0.9 * (len(gaps_s) - 1)
    low = int(rank)
    if low + 1 >= len(gaps_s):
        return float(gaps_s.max()) * 1e3
    # numpy.percentile takes ten times as long over this.
    ordered = np.partition(gaps_s, (low, low + 1))
    below, above = float(ordered[low]), float(ordered[low + 1])
    return (below + (rank - low) * (above - below)) * 1e3


@dataclass(frozen=True)
class Results:
    """The requests of a run as columns, in order of arrival; NaN where a request never ended.

    Attributes:
        arrival_s: When each came.
        ttft_ms: Until its first token.
        tpot_mean_ms: Its mean gap.
        tpot_p90_ms: The 90th percentile of its gaps.
        output_tokens: Tokens of its answer.
        end_s: When its last token came.
        retries: Times requests were placed anew, in all.
        handoffs: EC and KV handoffs, in all.
        overflows: Stages placed on pods of another role, in all.
        flips: Role changes.
        events: Events of the simulation.
    """

    arrival_s: Column
    ttft_ms: Column
    tpot_mean_ms: Column
    tpot_p90_ms: Column
    output_tokens: Column
    end_s: Column
    retries: int
    handoffs: int
    overflows: int
    flips: int
    events: int

    @classmethod
    def of(cls, calls: Sequence[Call], *, flips: int = 0, events: int = 0) -> "Results":
        """Gather the results of calls, ended or not."""

        def column(values: Iterable[float]) -> Column:
            return np.fromiter(values, dtype=float, count=len(calls))

        nan = float("nan")
        done = [call.remaining <= 0 for call in calls]
        pairs = list(zip(calls, done, strict=True))
        return cls(
            arrival_s=column(call.request.arrival_s for call in calls),
            ttft_ms=column(
                nan
                if call.first_token_s is None
                else (call.first_token_s - call.request.arrival_s) * 1e3
                for call in calls
            ),
            tpot_mean_ms=column(call.tpot_mean_ms if ended else nan for call, ended in pairs),
            tpot_p90_ms=column(call.tpot_p90_ms if ended else nan for call, ended in pairs),
            output_tokens=column(call.request.shape.output_tokens for call in calls),
            end_s=column(call.last_token_s if ended else nan for call, ended in pairs),
            retries=sum(call.retries for call in calls),
            handoffs=sum(call.handoffs for call in calls),
            overflows=sum(call.overflows for call in calls),
            flips=flips,
            events=events,
        )

    def __len__(self) -> int:
        return len(self.arrival_s)

    def good(self, slo: Slo) -> NDArray[np.bool_]:
        """Return which requests met the SLO; one that never ended did not."""
        tpot_ms = self.tpot_mean_ms if slo.tpot is Tpot.MEAN else self.tpot_p90_ms
        met: NDArray[np.bool_] = (self.ttft_ms <= slo.ttft_ms) & (tpot_ms <= slo.tpot_ms)
        return met

    def attainment(self, slo: Slo) -> float:
        """Return the share of requests that met the SLO."""
        return float(self.good(slo).mean()) if len(self) else 1.0

    def goodput(self, slo: Slo) -> float:
        """Return good requests per second of arrivals."""
        span_s = float(self.arrival_s[-1]) if len(self) else 0.0
        return float(self.good(slo).sum()) / span_s if span_s else 0.0

    @property
    def mean_ttft_s(self) -> float:
        """Mean TTFT of the requests that got a token, in seconds."""
        return float(np.nanmean(self.ttft_ms)) / 1e3

    @property
    def mean_gap_s(self) -> float:
        """Mean gap over all tokens of all requests, in seconds (HydraInfer's mean TPOT)."""
        gaps = self.output_tokens - 1
        spent = np.where(np.isnan(self.tpot_mean_ms), 0.0, self.tpot_mean_ms * gaps)
        counted = gaps[~np.isnan(self.tpot_mean_ms)].sum()
        return float(spent.sum() / counted) / 1e3 if counted else 0.0
