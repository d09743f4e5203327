"""Where does the time of a request go?"""

from typing import Final

from epd import telemetry as t
from monitoring import board as b
from monitoring.board import Board, Kind, Panel, Query, Unit


def _stage(stage: str) -> str:
    return b.mean(t.STAGE_DURATION, where=f'stage="{stage}"')


def _handoff(kind: str) -> str:
    return b.mean(t.HANDOFF_DURATION, where=f'kind="{kind}"')


PATH: Final = Board(
    "epd-path",
    "Request path",
    "Where does the time of a request go, stage by stage, handoffs included?",
    (
        (
            "Stages",
            (
                Panel(
                    "Mean time of each step",
                    "Of a piece of each stage: an image, a prompt, an answer. Handoffs are part of "
                    "the stage that waits for them.",
                    Unit.SECONDS,
                    (
                        Query(_stage("encode"), "encode"),
                        Query(_handoff("ec"), "EC handoff"),
                        Query(_stage("prefill"), "prefill"),
                        Query(_handoff("kv"), "KV handoff"),
                        Query(_stage("decode"), "decode"),
                    ),
                ),
                Panel(
                    "Stages by the role of their pod",
                    "90th percentile. A stage on a pod of another role is overflow.",
                    Unit.SECONDS,
                    (
                        Query(
                            b.quantile(0.9, t.STAGE_DURATION, "stage", "role", of=b.OF_ROLE),
                            "{{stage}} on {{role}}",
                        ),
                    ),
                ),
                Panel(
                    "Outside the workers",
                    "Of a call's time, what was not spent on its worker: in the gateway and on the "
                    "way.",
                    Unit.SECONDS,
                    b.quantiles(t.STAGE_OUTSIDE, "stage", shares=(0.9,)),
                ),
                Panel(
                    "Whole requests",
                    "From a request's arrival to its last byte.",
                    Unit.SECONDS,
                    b.quantiles(t.REQUEST_DURATION),
                ),
            ),
        ),
        (
            "Where the time lies",
            tuple(
                Panel(title, description, Unit.SECONDS, b.heat(metric, where), Kind.HEATMAP, 8)
                for title, description, metric, where in (
                    ("First tokens", "Time to the first token of each request.", t.TTFT, ""),
                    ("Encode", "Time of each image.", t.STAGE_DURATION, 'stage="encode"'),
                    ("Prefill", "Time of each prompt.", t.STAGE_DURATION, 'stage="prefill"'),
                    ("Decode", "Time of each answer.", t.STAGE_DURATION, 'stage="decode"'),
                    ("EC handoffs", "Wait for embeddings.", t.HANDOFF_DURATION, 'kind="ec"'),
                    ("KV handoffs", "Wait for KV caches.", t.HANDOFF_DURATION, 'kind="kv"'),
                )
            ),
        ),
        (
            "Placement",
            (
                Panel(
                    "How requests were split",
                    "Completed requests by method.",
                    Unit.REQUESTS,
                    (b.each(b.rate, t.REQUEST_METHODS, "method"),),
                    Kind.STACK,
                ),
                Panel(
                    "Placed, and overflowed",
                    "Stages placed on pods; overflow is on a pod whose role does not offer them.",
                    Unit.PER_SECOND,
                    (
                        Query(b.rate(t.PLACEMENTS, "stage"), "{{stage}}"),
                        Query(b.rate(t.OVERFLOWS, "stage"), "{{stage}} overflows"),
                    ),
                ),
                Panel(
                    "Tried again",
                    "Stages tried again elsewhere, and answers continued elsewhere.",
                    Unit.PER_SECOND,
                    (
                        Query(b.rate(t.STAGE_RETRIES, "stage"), "{{stage}} again"),
                        Query(b.rate(t.REPLAYS), "replays"),
                    ),
                    bad_from=1,
                    runbooks=("EPDStagesFail",),
                ),
                Panel(
                    "Stages that failed",
                    "By stage and reason.",
                    Unit.PER_SECOND,
                    (
                        Query(
                            b.rate(t.STAGE_FAILURES, "reason"),
                            "{{reason}}",
                        ),
                    ),
                    bad_from=0.1,
                    runbooks=("EPDStagesFail", "EPDHandoffsFail"),
                ),
            ),
        ),
    ),
)
