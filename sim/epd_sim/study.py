"""Studies: several policies over one workload, and how large a fleet is.

What a study finds is plain data (`Row`): a table, JSON and plots are made of it elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from epd.policy.method import MethodChoice, rank_methods
from epd.vocabulary import Role, Stage
from epd_sim.control import fluid_goodput
from epd_sim.gateway import GatewayPlacer
from epd_sim.observe import mean_shape, policy_slo
from epd_sim.policies import Outcome, Plan, Setup, run, serve
from epd_sim.results import Column
from epd_sim.workload import Workload


@dataclass(frozen=True)
class Row:
    """What one policy made of one workload.

    Attributes:
        policy: Its name.
        rate: Requests a second that came.
        attainment: Share of them that met the SLO.
        goodput: Those, per second.
        ttft_ms: 50th, 90th and 99th percentile.
        tpot_mean_ms: The same of the mean gap of a request.
        tpot_p90_ms: The same of the 90th percentile of a request's gaps.
        flips: Role changes.
        overflows: Stages on pods of another role.
        handoffs: EC and KV handoffs.
        retries: Requests placed anew.
        first_split: Pods by role at the start.
    """

    policy: str
    rate: float
    attainment: float
    goodput: float
    ttft_ms: tuple[float, ...]
    tpot_mean_ms: tuple[float, ...]
    tpot_p90_ms: tuple[float, ...]
    flips: int
    overflows: int
    handoffs: int
    retries: int
    first_split: Mapping[Role, int]

    @classmethod
    def of(cls, setup: Setup, outcome: Outcome) -> "Row":
        """Summarise an outcome."""
        results = outcome.results

        def percentiles(column: Column) -> tuple[float, ...]:
            known = column[~np.isnan(column)]
            if not len(known):
                return (float("nan"),) * 3
            return tuple(round(float(x), 3) for x in np.percentile(known, (50, 90, 99)))

        span_s = float(results.arrival_s[-1]) if len(results) else 0.0
        return cls(
            policy=outcome.policy,
            rate=len(results) / span_s if span_s else 0.0,
            attainment=results.attainment(setup.slo),
            goodput=results.goodput(setup.slo),
            ttft_ms=percentiles(results.ttft_ms),
            tpot_mean_ms=percentiles(results.tpot_mean_ms),
            tpot_p90_ms=percentiles(results.tpot_p90_ms),
            flips=results.flips,
            overflows=results.overflows,
            handoffs=results.handoffs,
            retries=results.retries,
            first_split=outcome.first_split,
        )


def compare(setup: Setup, policies: Sequence[str], workload: Workload) -> Iterator[Outcome]:
    """Serve one workload under each policy, one after the other."""
    for name in policies:
        yield run(setup, name, workload)


def fluid_limit(setup: Setup, workload: Workload) -> float:
    """Return requests per second that no split of the fleet can exceed."""
    return fluid_goodput(workload, setup.costs.curves(), setup.slo, setup.pods)


@dataclass(frozen=True)
class FleetPlan:
    """The smallest fleet of one method for a workload.

    Attributes:
        choice: Method and split, with what the closed form promises.
        pods: Fleet size.
        attainment: As simulated.
        meets_slo: Attainment is at least the SLO's.
    """

    choice: MethodChoice
    pods: int
    attainment: float
    meets_slo: bool


def plan_fleet(setup: Setup, workload: Workload, most_pods: int) -> Iterator[FleetPlan]:
    """Yield, for each method, the smallest fleet whose simulation meets the SLO.

    The closed form of `epd.policy.method` says where to begin; from there the simulation decides.

    Args:
        setup: Costs and SLO; its fleet size and method are not looked at.
        workload: What is to be served.
        most_pods: Where to give up.
    """
    shape = mean_shape(request.shape for request in workload)
    rate = len(workload) / workload[-1].arrival_s if workload else 0.0
    curves, slo = setup.costs.curves(), policy_slo(setup.slo)

    def choices(pods: int) -> dict[str, MethodChoice]:
        return {str(c.method): c for c in rank_methods(pods, curves, shape, slo)}

    for method in choices(most_pods):
        begin = next(
            (
                pods
                for pods in range(1, most_pods + 1)
                if method in (known := choices(pods)) and known[method].requests_per_s >= rate
            ),
            most_pods,
        )
        choice_of = partial(_choice_of, choices, method)
        pods, met = _settle(setup, workload, choice_of, begin, most_pods)
        yield FleetPlan(choices(pods)[method], pods, met, met >= setup.slo.attainment)


def attainment(setup: Setup, workload: Workload, split: Mapping[Role, int]) -> float:
    """Return the share of requests that meet the SLO on pods that keep their roles.

    Args:
        setup: Costs and SLO; its fleet size and method are not looked at.
        workload: What is to be served.
        split: Pods by role.
    """
    plan: Plan = (split, GatewayPlacer(), None)
    sized = replace(setup, pods=sum(split.values()))
    return serve(sized, "plan", workload, plan).results.attainment(setup.slo)


def _choice_of(
    choices: Callable[[int], Mapping[str, MethodChoice]], method: str, pods: int
) -> MethodChoice | None:
    return choices(pods).get(method)


def _settle(
    setup: Setup,
    workload: Workload,
    choice_of: Callable[[int], MethodChoice | None],
    begin: int,
    most: int,
) -> tuple[int, float]:
    """Return the smallest fleet near `begin` that meets the SLO, and its attainment."""

    def attained(pods: int) -> float:
        choice = choice_of(pods)
        return attainment(setup, workload, choice.pods) if choice else 0.0

    pods, met = begin, attained(begin)
    while met < setup.slo.attainment and pods < most:
        pods += 1
        met = attained(pods)
    while pods > 1 and (fewer := attained(pods - 1)) >= setup.slo.attainment:
        pods, met = pods - 1, fewer
    return pods, met


def split_over_time(outcome: Outcome) -> list[tuple[float, dict[Role, int]]]:
    """Return the pods by role after every change, from the start on."""
    roles = {}
    counts = dict(outcome.first_split)
    index = 0
    for role, count in outcome.first_split.items():
        for _ in range(count):
            roles[index] = role
            index += 1
    timeline = [(0.0, dict(counts))]
    for at_s, pod, role in outcome.world.flips:
        if pod in roles:
            counts[roles[pod]] -= 1
            counts[role] = counts.get(role, 0) + 1
            roles[pod] = role
            timeline.append((at_s, dict(counts)))
    return timeline


def stage_counts(counts: Mapping[Role, int]) -> dict[Stage, int]:
    """Return how many pods are offered each stage."""
    return {
        stage: sum(count for role, count in counts.items() if stage in role.stages)
        for stage in Stage
    }
