"""Are users served, and if not, which stage is short?"""

from typing import Final

from epd import telemetry as t
from epd.metric import Metric
from monitoring import board as b
from monitoring.board import Board, Kind, Panel, Query, Unit
from monitoring.boards.objective import limit


def _met(objective: str) -> str:
    met = b.rate(t.SLO_ANSWERS, where=f'objective="{objective}", verdict="met"')
    return f"{met} / " + b.rate(t.SLO_ANSWERS, where=f'objective="{objective}"')


_TARGET: Final = f"min({t.SLO_ATTAINMENT.name}{{{b.OF_CLUSTER}}})"
_BUDGET: Final = f"clamp_min(1 - {_TARGET}, 0.001)"
_FAILED: Final = (
    f"""{b.rate(t.REQUESTS, where='status="5xx"')} / {b.rate(t.REQUESTS)}""",
    "failed",
)
_QUEUE: Final = (
    f"sum by (stage) (avg_over_time({t.WORKER_WAITING.name}{{{b.OF_CLUSTER}}}[{b.WINDOW}])) / "
    + b.rate(t.WORKER_FINISHED, "stage")
)


def _over(metric: Metric, objective: str) -> Query:
    return Query(f"{b.quantile(0.9, metric)} / {limit(objective).expr}", "of the objective")


SERVICE: Final = Board(
    "epd-service",
    "Service levels",
    "Are users served, and if not, which stage is short?",
    (
        (
            "Now",
            (
                Panel(
                    "Answers within the objective",
                    "Share of streamed answers that met both limits. Red below the target share.",
                    Unit.RATIO,
                    (Query(_met("all"), "met"),),
                    Kind.NUMBER,
                    5,
                    bad_below=0.9,
                    runbooks=("EPDTTFTBurnsFast", "EPDTPOTBurnsFast"),
                ),
                Panel(
                    "First token, of what is allowed",
                    "90th percentile of the time to the first token over the objective's limit.",
                    Unit.RATIO,
                    (_over(t.TTFT, "ttft"),),
                    Kind.NUMBER,
                    5,
                    bad_from=1.0,
                    runbooks=("EPDTTFTBurnsFast",),
                ),
                Panel(
                    "Time per token, of what is allowed",
                    "90th percentile of the mean gap between tokens over the objective's limit.",
                    Unit.RATIO,
                    (_over(t.TPOT, "tpot"),),
                    Kind.NUMBER,
                    5,
                    bad_from=1.0,
                    runbooks=("EPDTPOTBurnsFast",),
                ),
                Panel(
                    "Requests that fail",
                    "Share answered with 5xx.",
                    Unit.RATIO,
                    (Query(*_FAILED),),
                    Kind.NUMBER,
                    5,
                    bad_from=0.01,
                    runbooks=("EPDRequestsFail",),
                ),
                Panel(
                    "Stages without a pod",
                    "Stages that a gateway needs and has no pod for.",
                    Unit.COUNT,
                    (
                        Query(
                            f"sum(max by (stage) ({t.STAGE_MISSING.name}{{{b.OF_CLUSTER}}}))",
                            "stages",
                        ),
                    ),
                    Kind.NUMBER,
                    4,
                    bad_from=1,
                    runbooks=("EPDStageWithoutPod", "EPDNoReadyPods"),
                ),
            ),
        ),
        (
            "Objective",
            (
                Panel(
                    "Time to first token",
                    "From a streamed request's arrival to its first token. The dashed line is the "
                    "cluster's own objective.",
                    Unit.SECONDS,
                    (*b.quantiles(t.TTFT), limit("ttft")),
                    runbooks=("EPDTTFTBurnsFast", "EPDTTFTBurnsSlowly"),
                ),
                Panel(
                    "Time per output token (mean over m-1 gaps)",
                    "The mean gap between an answer's tokens: the objective's own definition.",
                    Unit.SECONDS,
                    (*b.quantiles(t.TPOT), limit("tpot")),
                    runbooks=("EPDTPOTBurnsFast", "EPDTPOTBurnsSlowly"),
                ),
                Panel(
                    "Answers that meet the objective",
                    "Share of streamed answers by limit; `all` is goodput's share. The dashed line "
                    "is the share that should.",
                    Unit.RATIO,
                    (
                        *(Query(_met(name), name) for name in ("ttft", "tpot", "all")),
                        Query(_TARGET, "objective", is_limit=True),
                    ),
                    bad_below=0.5,
                ),
                Panel(
                    "How fast the budget of misses burns",
                    "1 spends just what the objective allows; the fast alert is at 5.",
                    Unit.COUNT,
                    tuple(
                        Query(f"(1 - {_met(name)}) / {_BUDGET}", name) for name in ("ttft", "tpot")
                    ),
                    bad_from=5,
                    runbooks=("EPDTTFTBurnsFast", "EPDTPOTBurnsFast"),
                ),
                Panel(
                    "Time per output token (p90 of an answer's gaps)",
                    "The other definition (HydraInfer): nine of ten gaps of an answer are shorter.",
                    Unit.SECONDS,
                    b.quantiles(t.TPOT_P90),
                ),
                Panel(
                    "Goodput",
                    "Streamed answers per second that meet both limits, beside all answers.",
                    Unit.REQUESTS,
                    (
                        Query(
                            b.rate(t.SLO_ANSWERS, where='objective="all", verdict="met"'), "good"
                        ),
                        Query(b.rate(t.SLO_ANSWERS, where='objective="all"'), "all"),
                    ),
                ),
            ),
        ),
        (
            "Which stage is short",
            (
                Panel(
                    "Wait before a stage",
                    "Mean time that work waits for the engine, by Little's law: what waits over "
                    "what ends in a second. The stage on top is the short one.",
                    Unit.SECONDS,
                    (Query(_QUEUE, "{{stage}}"), limit("ttft")),
                    runbooks=("EPDStageStarved",),
                ),
                Panel(
                    "First token by class and method",
                    "90th percentile, for requests with and without images, by how they were "
                    "split over pods.",
                    Unit.SECONDS,
                    (
                        Query(
                            b.quantile(0.9, t.TTFT, "images", "method"),
                            "{{images}} images, {{method}}",
                        ),
                    ),
                ),
                Panel(
                    "Requests",
                    "Answered requests by status class; `gone` are clients that left.",
                    Unit.REQUESTS,
                    (b.each(b.rate, t.REQUESTS, "status"),),
                    Kind.STACK,
                ),
                Panel(
                    "Requests in flight",
                    "Requests that are being served.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.REQUESTS_IN_FLIGHT, "api"),),
                ),
            ),
        ),
    ),
)
