"""Does the closed form pick a good method? Every method and split, simulated, beside its pick."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from epd.policy.method import rank_methods
from epd.vocabulary import Method, Role
from epd_sim.gateway import GatewayPlacer
from epd_sim.observe import mean_shape, policy_slo
from epd_sim.policies import Plan, Setup, serve
from epd_sim.results import Slo, Tpot
from epd_sim.workload import Request, Shape, Workload, arrive, poisson_gaps

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
        picked: The closed form's method, split and simulated goodput.
        best: The same of the best of all.
    """

    shapes: str
    slo: Slo
    picked: tuple[Method, Mapping[Role, int], float]
    best: tuple[Method, Mapping[Role, int], float]

    @property
    def share(self) -> float:
        """Goodput of the pick, as a share of the best."""
        return self.picked[2] / self.best[2] if self.best[2] else 1.0


def all_splits(pods: int) -> Iterator[tuple[Method, dict[Role, int]]]:
    """Yield every method with every split that leaves no role empty."""
    for method in Method:
        roles = method.roles
        for counts in product(range(1, pods + 1), repeat=len(roles)):
            if sum(counts) == pods:
                yield method, dict(zip(roles, counts, strict=True))


def draw(shapes: str, rate: float, seconds: float, seed: int) -> list[Request]:
    """Return equal parts of some shapes, Poisson arrivals."""
    kinds = SHAPES[shapes]
    rng = np.random.default_rng(seed)
    gaps = poisson_gaps(rate, rng)
    return arrive(gaps, lambda rng: kinds[int(rng.integers(len(kinds)))], rng, seconds=seconds)


def cell(setup: Setup, shapes: str, slo: Slo, *, seconds: float = 40.0, seed: int = 1) -> Cell:
    """Simulate every split of every method at a load that even the best cannot serve whole.

    The load is 1.3 times what the closed form promises for its pick.
    """
    setup = Setup(setup.costs, slo, pods=setup.pods)
    curves = setup.costs.curves()
    mean = mean_shape(SHAPES[shapes])
    pick = rank_methods(setup.pods, curves, mean, policy_slo(slo))[0]
    workload = draw(shapes, max(1.0, 1.3 * pick.requests_per_s), seconds, seed)

    def goodput(counts: Mapping[Role, int]) -> float:
        return _goodput(setup, counts, workload)

    tried = {
        (method, tuple(counts.items())): goodput(counts)
        for method, counts in all_splits(setup.pods)
    }
    (method, split), best = max(tried.items(), key=lambda entry: entry[1])
    picked = tried[pick.method, tuple(pick.pods.items())]
    return Cell(shapes, slo, (pick.method, pick.pods, picked), (method, dict(split), best))


def _goodput(setup: Setup, counts: Mapping[Role, int], workload: Workload) -> float:
    plan: Plan = (counts, GatewayPlacer(), None)
    return serve(setup, "split", workload, plan).results.goodput(setup.slo)
