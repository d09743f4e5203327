"""What do the pods do, and how do embeddings and KV caches travel?"""

from typing import Final

from epd import telemetry as t
from monitoring import board as b
from monitoring.board import Board, Kind, Panel, Query, Unit

WORKERS: Final = Board(
    "epd-workers",
    "Workers and transport",
    "What do the pods do, and how do embeddings and KV caches travel?",
    (
        (
            "Load",
            (
                Panel(
                    "Work that runs",
                    "Pieces that each worker's engine is at.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.WORKER_RUNNING, "worker"),),
                    Kind.STACK,
                ),
                Panel(
                    "Work that waits",
                    "Pieces that came to a worker and that its engine has not begun.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.WORKER_WAITING, "worker"),),
                    Kind.STACK,
                    runbooks=("EPDStageStarved",),
                ),
                Panel(
                    "Engine steps",
                    "Time between two steps with tokens; what an answer's tokens come by.",
                    Unit.SECONDS,
                    b.quantiles(t.WORKER_STEP, "worker", shares=(0.9,)),
                    runbooks=("EPDTPOTBurnsFast",),
                ),
                Panel(
                    "Mean time of a piece",
                    "On its worker, waiting included.",
                    Unit.SECONDS,
                    (
                        Query(
                            b.rate(t.WORKER_SERVICE, "stage")
                            + " / "
                            + b.rate(t.WORKER_FINISHED, "stage"),
                            "{{stage}}",
                        ),
                    ),
                ),
                Panel(
                    "Tokens under way",
                    "Prompts and answers of all work that runs.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.WORKER_TOKENS, "worker"),),
                    Kind.STACK,
                ),
                Panel(
                    "Work that ended badly",
                    "Failed and cancelled pieces.",
                    Unit.PER_SECOND,
                    (
                        Query(b.rate(t.WORKER_FAILED, "stage"), "{{stage}} failed"),
                        Query(b.rate(t.WORKER_CANCELLED, "stage"), "{{stage}} cancelled"),
                    ),
                    runbooks=("EPDStagesFail",),
                ),
            ),
        ),
        (
            "Caches and handoffs",
            (
                Panel(
                    "Fill of the caches",
                    "KV cache (kv) and encoder cache (ec) of each worker.",
                    Unit.RATIO,
                    (b.each(b.gauge, t.WORKER_CACHE_USED, "worker", "kind"),),
                    bad_from=0.95,
                ),
                Panel(
                    "Leases",
                    "Handoffs kept for a taker; they fall to 0 where no work comes.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.WORKER_LEASES, "worker", "kind"),),
                    runbooks=("EPDLeasesLeak",),
                ),
                Panel(
                    "Bytes taken",
                    "Embeddings and KV caches taken from other workers.",
                    Unit.BYTES,
                    (b.each(b.rate, t.WORKER_RECEIVED, "kind"),),
                ),
                Panel(
                    "Time of handoffs",
                    "How long work waited for another worker.",
                    Unit.SECONDS,
                    b.quantiles(t.WORKER_HANDOFF, "kind", shares=(0.5, 0.99)),
                    runbooks=("EPDHandoffsFail",),
                ),
                Panel(
                    "Workers by version",
                    "More than one is an upgrade under way.",
                    Unit.COUNT,
                    (
                        Query(
                            f"count by (version, engine) ({t.WORKER_INFO.name}{{{b.OF_CLUSTER}}})",
                            "{{version}}, {{engine}}",
                        ),
                    ),
                    Kind.STACK,
                    24,
                    runbooks=("EPDVersionSkew",),
                ),
            ),
        ),
    ),
)
