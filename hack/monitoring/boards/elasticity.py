"""What did the operator do with the pods, and why?"""

from typing import Final

from epd import telemetry as t
from monitoring import board as b
from monitoring.board import Board, Kind, Panel, Query, Unit

ELASTICITY: Final = Board(
    "epd-elasticity",
    "Elasticity",
    "What did the operator do with the pods, and why?",
    (
        (
            "Pods and what the traffic asks for",
            (
                Panel(
                    "Pods by role",
                    "Ready pods of each role, as the gateways see them. Annotations are flips.",
                    Unit.COUNT,
                    (
                        Query(
                            f"max by (role) (sum by (instance, role) ({t.ROSTER_PODS.name}"
                            f'{{{b.OF_ROLE}, state="ready"}})) > 0',
                            "{{role}}",
                        ),
                    ),
                    Kind.STACK,
                    runbooks=("EPDNoReadyPods", "EPDFlapping"),
                ),
                Panel(
                    "Demand and capacity",
                    "Pods of each role that the traffic asks for, beside those there are. Demand "
                    "above capacity is a stage that starves.",
                    Unit.COUNT,
                    (
                        Query(b.gauge(t.CONTROL_DEMAND, "role", of=b.OF_ROLE), "{{role}} asked"),
                        Query(b.gauge(t.CONTROL_PODS, "role", of=b.OF_ROLE), "{{role}} there"),
                    ),
                    runbooks=("EPDStageStarved", "EPDHeldTooLong"),
                ),
                Panel(
                    "Desired pods",
                    "The split that the cluster is headed for.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.CONTROL_DESIRED, "role", of=b.OF_ROLE),),
                    Kind.STACK,
                ),
                Panel(
                    "Work at the pods",
                    "Pieces of each stage that run or wait, over all pods.",
                    Unit.COUNT,
                    (
                        Query(b.gauge(t.WORKER_RUNNING, "stage"), "{{stage}} runs"),
                        Query(b.gauge(t.WORKER_WAITING, "stage"), "{{stage}} waits"),
                    ),
                ),
            ),
        ),
        (
            "Flips and holds",
            (
                Panel(
                    "Flips by reason",
                    "Roles that the control loop has changed, in all.",
                    Unit.COUNT,
                    (
                        Query(
                            b.gauge(t.CONTROL_FLIPS, "from_role", "to_role", "why"),
                            "{{from_role}} to {{to_role}}: {{why}}",
                        ),
                    ),
                    runbooks=("EPDFlapping",),
                ),
                Panel(
                    "How long a flip takes",
                    "From the role being written to a gateway placing by it; a flip is done when "
                    "the slowest gateway has.",
                    Unit.SECONDS,
                    (
                        Query(
                            f"{t.FLIP_DELAY.name}_sum{{{b.OF_CLUSTER}}} / "
                            f"({t.FLIP_DELAY.name}_count{{{b.OF_CLUSTER}}} > 0)",
                            "mean {{instance}}",
                        ),
                    ),
                    bad_from=2.0,
                    runbooks=("EPDRosterStale",),
                ),
                Panel(
                    "Passes that changed nothing",
                    "Holds per second by their reason.",
                    Unit.PER_SECOND,
                    (Query(b.rate(t.CONTROL_HOLDS, "hold") + " > 0", "{{hold}}"),),
                    Kind.STACK,
                    runbooks=("EPDHeldTooLong",),
                ),
                Panel(
                    "Age of the last decision",
                    "Since the loop last decided on fresh metrics.",
                    Unit.SECONDS,
                    (
                        Query(
                            f"clamp_min(time() - max by (epd_dev_cluster) "
                            f"({t.CONTROL_DECIDED.name}{{{b.OF_CLUSTER}}}), 0)",
                            "{{epd_dev_cluster}}",
                        ),
                    ),
                    bad_from=60,
                    runbooks=("EPDDecisionsStale",),
                ),
            ),
        ),
    ),
    flips=True,
)
