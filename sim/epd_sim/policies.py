"""Every policy by name, in one shape: who places, who controls, and the split to begin with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from epd.policy.pods import Costs
from epd.policy.split import split
from epd.vocabulary import Method, Role, Stage
from epd_sim.arrow import ArrowV1, ArrowV2
from epd_sim.control import (
    Churn,
    Clairvoyant,
    ElasticControl,
    ElasticSettings,
    role_demand,
)
from epd_sim.costs import StageCosts
from epd_sim.gateway import GatewayPlacer, GatewaySettings
from epd_sim.label_router import DECODE_ROLE, PREFILL_ROLE
from epd_sim.lexicographic import Lexicographic
from epd_sim.observe import Work, offered_pods
from epd_sim.operator_loop import OperatorLoop
from epd_sim.results import Results, Slo
from epd_sim.workload import Workload
from epd_sim.world import Controls, Placer, World, WorldSettings
from epd_sim.xllm import XllmSloAware

_PROBE_S: Final = 60.0


@dataclass(frozen=True)
class Setup:
    """A cluster before anybody decided anything.

    Attributes:
        costs: Model and GPU.
        slo: The objective.
        pods: How many.
        method: How policies with a method split it.
        gateways: Gateway processes.
        elastic: How the production loop runs.
        churn_start_s: How long a new pod takes for planners that delete and create.
    """

    costs: StageCosts
    slo: Slo
    pods: int = 8
    method: Method = Method.E_P_D
    gateways: int = 2
    elastic: ElasticSettings = field(default_factory=ElasticSettings)
    churn_start_s: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """What a policy made of a workload.

    Attributes:
        policy: Its name.
        results: TTFT, TPOT, attainment.
        first_split: Pods by role at the start.
        world: The world afterwards: flips, pods, decisions.
        control: Who controlled it.
    """

    policy: str
    results: Results
    first_split: Mapping[Role, int]
    world: World
    control: Controls | None


Plan = tuple[Mapping[Role, int], Placer, Controls | None]
Planner = Callable[[Setup, Workload], Plan]


@dataclass(frozen=True, slots=True)
class Policy:
    """A named way to run a cluster.

    Attributes:
        name: On a command line.
        summary: One line.
        plan: Makes it for a set-up and the workload that is to come.
    """

    name: str
    summary: str
    plan: Planner


def run(setup: Setup, policy: str, workload: Workload) -> Outcome:
    """Serve a workload under a policy.

    Raises:
        KeyError: No policy of that name.
    """
    counts, placer, control = POLICIES[policy].plan(setup, workload)
    return serve(setup, policy, workload, (counts, placer, control))


def serve(setup: Setup, name: str, workload: Workload, plan: Plan) -> Outcome:
    """Serve a workload as a plan says."""
    counts, placer, control = plan
    world = World(
        [role for role, count in counts.items() for _ in range(count)],
        setup.costs,
        placer,
        controller=control,
        settings=WorldSettings(gateways=setup.gateways),
    )
    return Outcome(name, world.run(workload), dict(counts), world, control)


def mean_split(setup: Setup, workload: Workload, method: Method | None = None) -> dict[Role, int]:
    """Return the split that the mean demand of a workload asks for."""
    seconds = max(1.0, workload[-1].arrival_s) if workload else 1.0
    stages = offered_pods(workload, seconds, setup.costs.curves(), setup.slo)
    return split(setup.pods, role_demand(method or setup.method, stages), {})


def first_split(setup: Setup, workload: Workload) -> dict[Role, int]:
    """Return the split that the first minute asks for: what a planner knows at the start."""
    early = [r for r in workload if r.arrival_s < _PROBE_S and r.shape.online]
    return mean_split(setup, early)


def neighbours(counts: Mapping[Role, int]) -> list[dict[Role, int]]:
    """Return the splits that differ by one pod and leave no role empty."""
    return [
        {**counts, giver: counts[giver] - 1, taker: counts[taker] + 1}
        for giver in counts
        for taker in counts
        if giver is not taker and counts[giver] > 1
    ]


def best_static(setup: Setup, workload: Workload) -> dict[Role, int]:
    """Return the fixed split of best goodput: from the mean demand uphill, pod by pod."""
    tried: dict[tuple[int, ...], float] = {}

    def goodput(counts: Mapping[Role, int]) -> float:
        key = tuple(counts.values())
        if key not in tried:
            plan: Plan = (counts, placer_for(setup.slo), None)
            tried[key] = serve(setup, "static", workload, plan).results.goodput(setup.slo)
        return tried[key]

    best: dict[Role, int] | None = mean_split(setup, workload)
    found = best
    while best is not None:
        found, reached = best, goodput(best)
        best = next((near for near in neighbours(found) if goodput(near) > reached), None)
    return found or {}


def hydrainfer_choices(setup: Setup, shapes: Workload) -> Sequence[dict[Role, int]]:
    """Return HydraInfer's three candidates: its split of E-P-D, and the two that merge pools.

    One pod each first, the rest by the largest residual of the stages' work, from 100 requests, as
    its released profiler does.
    """
    known = [request.shape for request in shapes[:100]]
    work = Work(setup.costs.curves(), setup.slo, known)
    totals = dict.fromkeys(Stage, 0.0)
    for shape in known:
        for stage, ms in work.of(shape).items():
            totals[stage] += ms
    rest = setup.pods - len(Stage)
    shares = {stage: rest * ms / (sum(totals.values()) or 1.0) for stage, ms in totals.items()}
    counts = {stage: 1 + int(share) for stage, share in shares.items()}
    by_residual = sorted(shares, key=lambda stage: int(shares[stage]) - shares[stage])
    for stage in by_residual[: setup.pods - sum(counts.values())]:
        counts[stage] += 1
    e, p, d = (counts[stage] for stage in Stage)
    return (
        {Role.ENCODE: e, Role.PREFILL: p, Role.DECODE: d},
        {Role.ENCODE_PREFILL: e + p, Role.DECODE: d},
        {Role.ENCODE_DECODE: e + d, Role.PREFILL: p},
    )


def _hydrainfer(setup: Setup, workload: Workload) -> Plan:
    early = [request for request in workload if request.arrival_s < _PROBE_S]
    choices = hydrainfer_choices(setup, workload)

    def goodput(counts: Mapping[Role, int]) -> float:
        plan: Plan = (counts, placer_for(setup.slo), None)
        return serve(setup, "probe", early, plan).results.goodput(setup.slo)

    return max(choices, key=goodput), placer_for(setup.slo), None


def _halves(setup: Setup) -> dict[Role, int]:
    return {PREFILL_ROLE: setup.pods // 2, DECODE_ROLE: setup.pods - setup.pods // 2}


def objective_costs(slo: Slo) -> Costs:
    """Return the constants of placement that is told the objective."""
    return Costs(ttft_ms=slo.ttft_ms, tpot_ms=slo.tpot_ms)


def placer_for(slo: Slo, *, classes: bool = False) -> GatewayPlacer:
    """Return placement as the gateway does it."""
    return GatewayPlacer(GatewaySettings(costs=objective_costs(slo), classes=classes))


def _lexicographic(setup: Setup, workload: Workload, *, slo_first: bool) -> Plan:
    settings = GatewaySettings(costs=objective_costs(setup.slo))
    placer = GatewayPlacer(settings, Lexicographic(slo_first=slo_first))
    control = ElasticControl(setup.method, setup.slo, setup.elastic)
    return first_split(setup, workload), placer, control


def _churn(interval_s: float) -> Planner:
    def plan(setup: Setup, workload: Workload) -> Plan:
        control = Churn(setup.method, setup.slo, interval_s, setup.churn_start_s)
        return first_split(setup, workload), placer_for(setup.slo), control

    return plan


POLICIES: Final = {
    policy.name: policy
    for policy in (
        Policy(
            "elastic",
            "ours: production placement told the SLO, production control, exact demand",
            lambda setup, workload: (
                first_split(setup, workload),
                placer_for(setup.slo),
                ElasticControl(setup.method, setup.slo, setup.elastic),
            ),
        ),
        Policy(
            "operator",
            "ours through the operator's own loop: it sees rates, means and histograms",
            lambda setup, workload: (
                first_split(setup, workload),
                placer_for(setup.slo),
                OperatorLoop(setup.method, setup.slo, setup.elastic),
            ),
        ),
        Policy(
            "colocated",
            "every pod does every stage",
            lambda setup, _: (
                {Role.ENCODE_PREFILL_DECODE: setup.pods},
                placer_for(setup.slo),
                None,
            ),
        ),
        Policy(
            "first-static",
            "the split that the first minute asks for, for ever",
            lambda setup, workload: (first_split(setup, workload), placer_for(setup.slo), None),
        ),
        Policy(
            "best-static",
            "the best fixed split, found by search over the whole workload",
            lambda setup, workload: (best_static(setup, workload), placer_for(setup.slo), None),
        ),
        Policy(
            "no-overflow",
            "ours, with every stage on pods of its role, as gateways do with slo.overflow=false",
            lambda setup, workload: (
                first_split(setup, workload),
                GatewayPlacer(),
                ElasticControl(setup.method, setup.slo, setup.elastic),
            ),
        ),
        Policy(
            "lexicographic",
            "ours, but placed by Arrow's lexicographic costs",
            lambda setup, workload: _lexicographic(setup, workload, slo_first=False),
        ),
        Policy(
            "lexicographic-slo",
            "the same with pods that meet the SLO before all others",
            lambda setup, workload: _lexicographic(setup, workload, slo_first=True),
        ),
        Policy(
            "no-affinity",
            "ours, with prompts placed without regard to where their beginnings were prefilled",
            lambda setup, workload: (
                first_split(setup, workload),
                GatewayPlacer(GatewaySettings(costs=objective_costs(setup.slo), prefixes=False)),
                ElasticControl(setup.method, setup.slo, setup.elastic),
            ),
        ),
        Policy(
            "elastic-classes",
            "ours, with offline requests in line until they harm no online one",
            lambda setup, workload: (
                first_split(setup, workload),
                placer_for(setup.slo, classes=True),
                ElasticControl(setup.method, setup.slo, setup.elastic),
            ),
        ),
        Policy(
            "least-load",
            "half prefill, half decode, each stage to the least loaded pod",
            lambda setup, _: (_halves(setup), GatewayPlacer(), None),
        ),
        Policy("hydrainfer", "HydraInfer's profiler picks method and split once", _hydrainfer),
        Policy(
            "arrow-v1",
            "Arrow's four pools (no encode stage of its own)",
            lambda setup, _: (_halves(setup), ArrowV1(setup.slo), None),
        ),
        Policy(
            "arrow-v2",
            "Arrow's costs and monitor (no encode stage of its own)",
            lambda setup, _: (_halves(setup), ArrowV2(setup.slo), None),
        ),
        Policy(
            "xllm",
            "xllm-service's SLO_AWARE (no encode stage of its own)",
            lambda setup, _: (_halves(setup), XllmSloAware(setup.slo), None),
        ),
        Policy("churn-180", "deletes and creates pods, looks every 180 s", _churn(180.0)),
        Policy("churn-5", "deletes and creates pods, looks every 5 s", _churn(5.0)),
        Policy(
            "clairvoyant",
            "a bound: each window begins with the split that its own arrivals need",
            lambda setup, workload: (
                first_split(setup, workload),
                placer_for(setup.slo),
                Clairvoyant(workload, setup.method, setup.slo),
            ),
        ),
    )
}
