"""Does the closed form pick a good method? Every method and split, simulated, beside its pick."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from epd.policy.method import rank_methods
from epd.vocabulary import Method, Role
from epd_sim.gateway import GatewayPlacer
from epd_sim.observe import mean_shape, policy_slo
from epd_sim.policies import Setup
from epd_sim.results import Slo, Tpot
from epd_sim.sustained import highest, meets_slo, splits
from epd_sim.workload import Request, Shape, arrive, poisson_gaps

SHAPES: Final[dict[str, tuple[Shape, ...]]] = {
    "captions": (Shape(60, 40, (1024,)),),
    "many images": (Shape(60, 120, (1024, 1024, 1024)),),
    "chats": (Shape(500, 400),),
    "mixed": (Shape(60, 80, (2040,)), Shape(400, 600)),
}
OBJECTIVES: Final = (
    Slo(1000.0, 40.0, Tpot.P90),
    Slo(2000.0, 60.0, Tpot.P90),
    Slo(4000.0, 40.0, Tpot.P90),
)
"""Strict, usual, and patient with the first token."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one objective.

    Attributes:
        shapes: Name of the workload.
        slo: The objective.
        promised: Requests a second that the closed form promises for its pick.
        picked: Its method, its split, and the rate that they sustain in the simulator.
        best: The same of the best of all.
    """

    shapes: str
    slo: Slo
    promised: float
    picked: tuple[Method, Mapping[Role, int], float]
    best: tuple[Method, Mapping[Role, int], float]

    @property
    def share(self) -> float:
        """What the pick sustains, as a share of what the best does."""
        return self.picked[2] / self.best[2] if self.best[2] else 1.0


def draw(shapes: str, rate: float, seconds: float, seed: int) -> list[Request]:
    """Return equal parts of some shapes, Poisson arrivals."""
    kinds = SHAPES[shapes]
    rng = np.random.default_rng(seed)
    gaps = poisson_gaps(rate, rng)
    return arrive(gaps, lambda rng: kinds[int(rng.integers(len(kinds)))], rng, seconds=seconds)


def cell(setup: Setup, shapes: str, slo: Slo, *, seconds: float = 90.0, seed: int = 1) -> Cell:
    """Compare what every split of every method sustains with what the pick does.

    Goodput is the highest rate at which the SLO's share of requests is good, by bisection to 2 % of
    the promise. Only splits that hold a fiftieth more than the best so far are bisected.
    """
    setup = Setup(setup.costs, slo, pods=setup.pods)
    mean = mean_shape(SHAPES[shapes])
    pick = rank_methods(setup.pods, setup.costs.curves(), mean, policy_slo(slo))[0]
    promised = pick.requests_per_s

    def holds(counts: Mapping[Role, int], rate: float) -> bool:
        return meets_slo(setup, (counts, GatewayPlacer(), None), draw(shapes, rate, seconds, seed))

    def sustained(counts: Mapping[Role, int], low: float, high: float) -> float:
        return highest(lambda rate: holds(counts, rate), low, high, 0.02 * promised)

    picked = (pick.method, pick.pods, sustained(pick.pods, 0.0, 2 * promised))
    best: tuple[Method, Mapping[Role, int], float] = picked
    for method in Method:
        for counts in splits(method, setup.pods):
            if counts != pick.pods and holds(counts, low := 1.02 * best[2]):
                best = (method, counts, sustained(counts, low, 2 * promised))
    return Cell(shapes, slo, promised, picked, best)
