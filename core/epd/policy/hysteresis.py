"""When a better split is worth its flips: regret, a price, and a price that learns.

A task system with two states and switching cost: leave a state once the regret of having stayed
equals the cost of leaving (Borodin, Linial, Saks 1992: at most three times the best in hindsight).
Here regret is the drop of the busiest role's utilisation that a move would have brought, added up
over time; per role it is signed, so that a demand which comes and goes cancels itself.

No fixed price suits every traffic: a demand that alternates a little more slowly than the regret
takes to ripen is followed always too late. So a flip must have paid for itself by the time it is
taken back, against resting at the best split of the mean demand. Where it has not, the price
doubles: on an alternating demand of any period, flips either pay or become rare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from epd.policy.control_view import Bounds, Limits
from epd.policy.split import split, utilisation
from epd.vocabulary import Role

Pods = Mapping[Role, int]

MAX_PRICE: Final = 64.0
_MAX_GAIN: Final = 2.0  # of utilisation; an empty role with work is infinitely busy
_CARRIED: Final = 0.5
_FORGET_COOLDOWNS: Final = 60  # the mean demand reaches back so far, and the price halves in it


@dataclass(frozen=True, slots=True)
class Present:
    """One pass as hysteresis sees it.

    Attributes:
        at_s: Its time.
        elapsed_s: Since the last pass.
        delay_s: How old its demand is: half the window that it was measured over.
        counts: Pods by role.
        target: The best split for the demand.
        demand_pods: Demand by role.
        deadband: Gains below it fade instead of adding up.
    """

    at_s: float
    elapsed_s: float
    delay_s: float
    counts: Pods
    target: Pods
    demand_pods: Mapping[Role, float]
    deadband: float


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """What is remembered between two passes.

    Attributes:
        pressure: By role, signed regret in utilisation-seconds: it wanted pods (+) or had too many.
        price: Multiplies the regret that a flip needs, and the time before one may be taken back.
        past: (since when, pods by role), newest last, as far back as demand is seen late.
        before: Pods by role when the present run of flips in one direction began.
        benefit: What flips have brought against resting, in utilisation-seconds; half of it is
            carried over to the next run, for a cycle is two.
        pods: Demand by role at the last pass.
        mean_pods: The same, averaged over `watched_s`.
        watched_s: How long that is.
    """

    pressure: Mapping[Role, float] = field(default_factory=dict)
    price: float = 1.0
    past: tuple[tuple[float, Pods], ...] = ()
    before: Pods = field(default_factory=dict)
    benefit: float = 0.0
    pods: Mapping[Role, float] = field(default_factory=dict)
    mean_pods: Mapping[Role, float] = field(default_factory=dict)
    watched_s: float = 0.0

    def after(self, now: Present, limits: Limits, bounds: Mapping[Role, Bounds]) -> "Hysteresis":
        """Return the memory after one more pass."""
        seen, demand = self._seen(now, limits.ripe_pressure), now.demand_pods
        watched_s = min(seen.watched_s + now.elapsed_s, _FORGET_COOLDOWNS * limits.cooldown_s)
        share = now.elapsed_s / watched_s if watched_s else 1.0
        mean = {
            role: old + share * (pods - old)
            for role, pods in demand.items()
            for old in (seen.mean_pods.get(role, pods),)
        }
        gain = _bounded(utilisation(demand, now.counts) - utilisation(demand, now.target))
        most = limits.ripe_pressure * seen.price
        pressure = {}
        for role, pods in now.counts.items():
            value = _towards_zero(seen.pressure.get(role, 0.0), now.deadband * now.elapsed_s)
            if gain > now.deadband and now.target[role] != pods:
                value += (gain if now.target[role] > pods else -gain) * now.elapsed_s
            pressure[role] = min(most, max(-most, value))
        unseen_s = max(0.0, now.elapsed_s - 2 * now.delay_s)  # stands for what comes after it
        middle_s = now.at_s - now.elapsed_s - now.delay_s + unseen_s / 2
        then = next(pods for since_s, pods in reversed(seen.past) if since_s <= middle_s)
        rest = split(sum(then.values()), mean, bounds)
        earned = _bounded(utilisation(self.pods, rest) - utilisation(self.pods, then))
        return replace(
            seen,
            pressure=pressure,
            price=1 + (seen.price - 1) * 0.5**share,
            benefit=seen.benefit + earned * now.elapsed_s,
            pods=demand,
            mean_pods=mean,
            watched_s=watched_s,
        )

    def _seen(self, now: Present, cost: float) -> "Hysteresis":
        """Take note of flips since the last pass: do they go on, or back?"""
        last = self.past[-1][1] if self.past else {}
        if now.counts == last:
            return self
        if sum(now.counts.values()) != sum(last.values()) or now.counts.keys() != last.keys():
            return replace(self, past=((-inf, now.counts),), before=now.counts, benefit=0.0)
        since_s = now.at_s - now.elapsed_s  # they happened right after the last pass
        late = sum(at_s <= since_s - now.delay_s for at_s, _ in self.past)
        past = (*self.past[max(0, late - 1) :], (since_s, now.counts))
        turned = sum(
            (pods - last[role]) * (last[role] - self.before[role])
            for role, pods in now.counts.items()
        )
        if turned >= 0:
            return replace(self, past=past, pressure={})
        price = self.price if self.benefit > cost else min(MAX_PRICE, self.price * 2)
        benefit = self.benefit * _CARRIED
        return replace(self, past=past, pressure={}, price=price, before=last, benefit=benefit)


def _towards_zero(value: float, step: float) -> float:
    return max(0.0, value - step) if value > 0 else min(0.0, value + step)


def _bounded(gain: float) -> float:
    """Bound a gain: a role with work and no pod is infinitely busy."""
    return 0.0 if gain != gain else max(-_MAX_GAIN, min(_MAX_GAIN, gain))
