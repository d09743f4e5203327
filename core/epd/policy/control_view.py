"""What the control half of the policy sees of a cluster, and what it answers: plain frozen data.

Whoever observes (operator, simulator, `epd plan`) fills a `ClusterView`; `decide` of
`epd.policy.control` turns it into a `Decision`. All times are seconds of one clock, the observer's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique

from epd.vocabulary import Method, Role, Stage


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many pods a role may have; `max_pods` None: no upper bound."""

    min_pods: int = 1
    max_pods: int | None = None


@dataclass(frozen=True, slots=True)
class Slo:
    """The objective: `attainment` (0 to 1) of all requests meets both limits."""

    ttft_ms: float = 1000.0
    tpot_ms: float = 50.0
    attainment: float = 0.9


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod.

    Attributes:
        name: Unique in the cluster.
        role: Its label.
        ready: It serves. Pods that are not ready are neither counted nor flipped.
        settled: Every gateway places by its present role; False: its flip is in flight.
        flipped_at_s: When its role last changed, as its annotation says; None: never.
        stranded_ms: Work queued or running there by stage, in milliseconds of the pod.
    """

    name: str
    role: Role
    ready: bool = True
    settled: bool = True
    flipped_at_s: float | None = None
    stranded_ms: Mapping[Stage, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageDemand:
    """The work of one stage, measured over the last seconds, all gateways together.

    Attributes:
        offered_pods: Work that arrives, in pod-seconds per second: arrival rate times the time
            that one piece takes of a pod (for decode: of a pod batched as far as the TPOT allows,
            `epd.policy.curves.CostCurves.pod_ms`).
        max_utilisation: The share of its time that a pod of this stage can be busy under the SLO
            (`epd.policy.method.sustainable_utilisation`).
        queue_ms: How long work that arrives now will wait before it starts.
        service_ms: How long one piece then takes.
        samples: Pieces of work that the measurement rests on; None: it is exact.
        age_s: Age of the measurement.
    """

    offered_pods: float
    max_utilisation: float = 1.0
    queue_ms: float = 0.0
    service_ms: float = 0.0
    samples: int | None = None
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The guards' constants.

    Attributes:
        cooldown_s: A pod that was flipped keeps its role at least so long, and a role that gained a
            pod gives none so long.
        max_concurrent_flips: Flips in flight at once.
        max_flips_per_cooldown: The budget: pods flipped in any stretch of `cooldown_s`; None: any.
        deadband: The least drop of the busiest role's utilisation that is worth a flip.
        max_age_s: Metrics older than this are stale.
        min_reporting_share: Share of ready pods that must report, else metrics count as stale.
        forecast_s: How far ahead demand is extrapolated by its trend; 0: not at all.
    """

    cooldown_s: float = 10.0
    max_concurrent_flips: int = 1
    max_flips_per_cooldown: int | None = None
    deadband: float = 0.05
    max_age_s: float = 30.0
    min_reporting_share: float = 0.6
    forecast_s: float = 0.0

    @property
    def ripe_pressure(self) -> float:
        """The regret that a flip needs, in utilisation-seconds, before its price.

        What the least gain worth a flip adds up to in a cooldown: a flip lasts that long at least,
        so this is about what a mistaken one costs.
        """
        return self.deadband * max(1.0, self.cooldown_s)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything `decide` looks at.

    Attributes:
        now_s: The observer's clock.
        pods: All pods of the cluster.
        demand: The stages' demand. A stage that no request needs has `StageDemand(0)`; one that is
            missing here was not measured, which makes the metrics stale.
        method: How the cluster is to be split.
        slo: The objective.
        bounds: By role; a role that is missing has `Bounds()`.
        limits: The guards' constants.
        tpot_ms: The TPOT that was measured, by the SLO's own definition; None: no answer ended.
        window_s: The stretch that the metrics are averaged over: two passes or more, else demand
            that alternates with the passes looks like something else.
        reporting_share: Share of the ready pods that reported lately, 0 to 1.
    """

    now_s: float
    pods: tuple[PodState, ...]
    demand: Mapping[Stage, StageDemand]
    method: Method = Method.E_P_D
    slo: Slo = field(default_factory=Slo)
    bounds: Mapping[Role, Bounds] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    tpot_ms: float | None = None
    window_s: float = 0.0
    reporting_share: float = 1.0


@unique
class ReasonCode(StrEnum):
    """Why something was decided: a reason of a condition or an event, in CamelCase.

    The first block are holds, in the order in which the guards are asked.
    """

    NO_PODS = "NoPods"
    METRICS_STALE = "MetricsStale"
    BALANCED = "Balanced"
    FLIP_IN_FLIGHT = "FlipInFlight"
    COOLDOWN = "Cooldown"
    MINIMUM = "Minimum"
    BUDGET_SPENT = "BudgetSpent"
    DEADBAND = "Deadband"

    DEMAND = "Demand"
    TTFT_BREACH_PREDICTED = "TTFTBreachPredicted"
    TPOT_BREACH_SUSTAINED = "TPOTBreachSustained"
    METHOD_CHANGED = "MethodChanged"
    BELOW_MINIMUM = "BelowMinimum"
    BEST_SPLIT = "BestSplit"


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence of a decision's why, with the numbers behind it.

    Attributes:
        code: What.
        subject: The role, stage or pod it is about; empty: the cluster.
        numbers: By name; names carry their unit.
    """

    code: ReasonCode
    subject: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        numbers = ", ".join(f"{name}={value:.4g}" for name, value in self.numbers.items())
        head = f"{self.code} {self.subject}".rstrip()
        return f"{head}: {numbers}" if numbers else head


@dataclass(frozen=True, slots=True)
class Flip:
    """Change the role of one pod."""

    pod: str
    from_role: Role
    to_role: Role


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and why.

    Attributes:
        flips: To be enacted in this order; empty: do nothing.
        desired: Pods by role that the cluster is headed for; today's where it rests.
        hold: Why nothing is done now; None: there are flips.
        reasons: The demand of each role, then what the decision rests on.
        fleet_pods: Pods that this demand needs under the SLO, whatever there are now; 0: unknown.
        urgent: A breach is predicted or measured: the deadband was skipped.
    """

    flips: tuple[Flip, ...]
    desired: Mapping[Role, int]
    hold: Reason | None = None
    reasons: tuple[Reason, ...] = ()
    fleet_pods: int = 0
    urgent: bool = False
