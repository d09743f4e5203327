"""`policy`: what one placement and one control decision cost, and how that grows with the fleet.

CPU time of the calling thread, so that other work on the machine does not count. Each figure is the
median over calls on fleets that differ: loads, roles and demand are drawn anew from a seed.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from report import Options, Report, Table, say

from epd.policy.control import decide
from epd.policy.control_view import ClusterView, Limits, PodState, StageDemand
from epd.policy.placement import place_encode, place_generation, place_whole
from epd.policy.pods import Costs, PodView, StageView
from epd.vocabulary import Role, Stage

SEED = 20261121
SIZES = (8, 30, 100, 300, 1000)
GOALS_US = {100: (50, 1000), 1000: (300, 10_000)}
"""Pods to (one placement, one decision)."""
CALLS_PER_FLEET = 25
ROLES = (Role.ENCODE, Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE)
COSTS = Costs(ttft_ms=1000)


def missing() -> str | None:
    """Return why this cannot be measured here."""
    return None


def views(pods: int, draw: random.Random) -> list[PodView]:
    """Return a fleet as a gateway sees it, under load."""
    return [
        PodView(
            f"pod-{index}",
            ROLES[index % len(ROLES)].stages,
            "h",
            kv_used_permille=draw.randrange(900),
            loads={stage: StageView(draw.randrange(20), 0, draw.uniform(5, 50)) for stage in Stage},
        )
        for index in range(pods)
    ]


def cluster(pods: int, draw: random.Random) -> ClusterView:
    """Return a fleet as the control loop sees it, far from the split that it needs."""
    busy = [draw.uniform(0.05, 1) for _ in Stage]
    offered = {
        stage: StageDemand(0.8 * pods * share / sum(busy), queue_ms=draw.uniform(0, 3000))
        for stage, share in zip(Stage, busy, strict=True)
    }
    states = tuple(
        PodState(
            f"pod-{index}",
            ROLES[index % len(ROLES)],
            flipped_at_s=draw.choice([None, 50.0, 98.0]),
            stranded_ms={stage: draw.uniform(0, 5000) for stage in Stage},
        )
        for index in range(pods)
    )
    return ClusterView(100.0, states, offered, limits=Limits(max_concurrent_flips=8))


def cpu_us(call: Callable[[int], object], calls: int) -> float:
    """Return the mean CPU time of one call."""
    start_s = time.thread_time()
    for turn in range(calls):
        call(turn)
    return (time.thread_time() - start_s) / calls * 1e6


def placements(fleet: list[PodView]) -> dict[str, Callable[[int], object]]:
    """Return the kinds of placement."""
    known = {pod.name: 0.5 for pod in fleet[-4:]}
    return {
        "encode": lambda turn: place_encode(fleet, turn * 0x9E3779B9, COSTS, turn=turn),
        "pair": lambda turn: place_generation(fleet, COSTS, turn=turn),
        "pair, 2 images": lambda turn: place_generation(fleet, COSTS, turn=turn, images=2),
        "pair, prefix": lambda turn: place_generation(fleet, COSTS, turn=turn, prefix_at=known),
        "whole": lambda turn: place_whole(fleet, COSTS, turn=turn),
    }


def decision_us(view: ClusterView) -> float:
    """Return the CPU time of a decision that flips: the first pass fills the memory."""
    _, memory = decide(view)
    later = replace(view, now_s=view.now_s + 5)
    return cpu_us(lambda _: decide(later, memory), 3)


def measure(options: Options) -> Report:
    """Measure placements and decisions for each size of fleet."""
    fleets = 5 if options.quick else 20 * options.rounds
    report = Report(raw=[])
    rows = []
    for size in SIZES:
        say(f"{size} pods")
        draw = random.Random(SEED)
        found: dict[str, list[float]] = {}
        for _ in range(fleets):
            fleet = views(size, draw)
            for kind, place in placements(fleet).items():
                found.setdefault(kind, []).append(cpu_us(place, CALLS_PER_FLEET))
            found.setdefault("decide", []).append(decision_us(cluster(size, draw)))
        medians = {kind: statistics.median(samples) for kind, samples in found.items()}
        goals = GOALS_US.get(size, (None, None))
        rows.append([size, *medians.values(), *goals])
        report.raw.append({"pods": size, "median_us": medians, "samples_us": found})
        report.figures[str(size)] = medians
    kinds = [*placements([]), "decide"]
    report.tables.append(
        Table(
            f"CPU time of one call in microseconds (median of {fleets} fleets, seed {SEED})",
            ["pods", *kinds, "goal: place", "goal: decide"],
            rows,
        )
    )
    return report
