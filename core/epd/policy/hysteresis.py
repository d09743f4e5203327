"""When a better split is worth its flips: regret, a price, and a price that learns.

A task system with two states and switching cost: leave a state once the regret of having stayed
equals the cost of leaving (Borodin, Linial, Saks 1992: at most three times the best in hindsight).
Here regret is the drop of the busiest role's utilisation that a move would have brought, added up
over time; per role it is signed, so that a demand which comes and goes cancels itself.

No fixed price suits every traffic: a demand that alternates a little more slowly than the regret
takes to ripen is followed always too late. So a flip must have paid for itself by the time it is
taken back. Where it has not, the price doubles: on an alternating demand of any period, flips
either pay or end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from epd.policy.split import utilisation
from epd.vocabulary import Role

MAX_PRICE: Final = 64.0
_MAX_GAIN: Final = 2.0


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """What is remembered between two passes.

    Attributes:
        pressure: By role, signed regret in utilisation-seconds: it wanted pods (+) or had too many.
        price: Multiplies the regret that a flip needs, and the time before one may be taken back.
        counts: Pods by role at the last pass.
        before: Pods by role when the present run of flips in one direction began.
        benefit: What that run has brought so far, in utilisation-seconds.
        peak: The most it has brought or cost at one time, in utilisation.
    """

    pressure: Mapping[Role, float] = field(default_factory=dict)
    price: float = 1.0
    counts: Mapping[Role, int] = field(default_factory=dict)
    before: Mapping[Role, int] = field(default_factory=dict)
    benefit: float = 0.0
    peak: float = 0.0

    def after(
        self,
        counts: Mapping[Role, int],
        target: Mapping[Role, int],
        demand_pods: Mapping[Role, float],
        elapsed_s: float,
        delay_s: float,
        forget_s: float,
        deadband: float,
        threshold: float,
    ) -> "Hysteresis":
        """Return the memory after one more pass.

        Args:
            counts: Pods by role now.
            target: The best split for the demand.
            demand_pods: Demand by role now.
            elapsed_s: Since the last pass.
            delay_s: How old the demand is, on average.
            forget_s: Time in which what the price is above 1 halves.
            deadband: Gains below it fade instead of adding up.
            threshold: Pressure that a flip needs, before the price.
        """
        seen = self._seen(counts, delay_s)
        most = threshold * seen.price
        busy = utilisation(demand_pods, counts)
        gain = _bounded(busy - utilisation(demand_pods, target))
        pressure = {}
        for role in counts:
            now = _towards_zero(seen.pressure.get(role, 0.0), deadband * elapsed_s)
            if gain > deadband and target[role] != counts[role]:
                now += (gain if target[role] > counts[role] else -gain) * elapsed_s
            pressure[role] = min(most, max(-most, now))
        earned = _bounded(utilisation(demand_pods, seen.before) - busy)
        price = 1 + (seen.price - 1) * 0.5 ** (elapsed_s / forget_s) if forget_s else 1.0
        return replace(
            seen,
            price=price,
            pressure=pressure,
            benefit=seen.benefit + earned * elapsed_s,
            peak=max(seen.peak, abs(earned)),
        )

    def _seen(self, counts: Mapping[Role, int], delay_s: float) -> "Hysteresis":
        """Take note of flips since the last pass: do they go on, or back?

        Demand is seen late, so a run of flips seems to help for a while before it does, and goes on
        hurting for as long after it seems over: twice the delay, at most at its peak, was not so.
        """
        if counts == self.counts:
            return self
        known = self.counts.keys() == counts.keys()
        if not known or sum(counts.values()) != sum(self.counts.values()):
            return replace(self, counts=counts, before=counts, benefit=0.0, peak=0.0)
        turned = sum(
            (counts[role] - self.counts[role]) * (self.counts[role] - self.before[role])
            for role in counts
        )
        if turned >= 0:
            return replace(self, counts=counts, pressure={})
        paid = self.benefit > 2 * delay_s * self.peak
        price = self.price if paid else min(MAX_PRICE, self.price * 2)
        return replace(
            self,
            pressure={},
            price=price,
            counts=counts,
            before=self.counts,
            benefit=0.0,
            peak=0.0,
        )


def _towards_zero(value: float, step: float) -> float:
    return max(0.0, value - step) if value > 0 else min(0.0, value + step)


def _bounded(gain: float) -> float:
    """Bound a gain: a role with work and no pod is infinitely busy."""
    return 0.0 if gain != gain else max(-_MAX_GAIN, min(_MAX_GAIN, gain))
