"""`operator`: relabels until gateways follow, 1,000 pods in 10 clusters, an operator at rest.

All on a real API server on this machine, which shares its cores with what is measured.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "hack"))  # the beds

import relabels
import thousand_pods
from kube import binaries
from kube.control_plane import PROGRAMS
from kube.fake_nodes import FakeNodes
from programs import programs
from report import Options, Report, Table, say

from epd.api.names import ControlMode

PODS_OF_A_ROSTER = 100
CLUSTERS = 10
MODES = (ControlMode.OFF, ControlMode.ACTIVE)
GOALS = {"followed": (20, 100), "idle": (0.05, 150)}
_COLUMNS = ("seconds", "cpu_s", "cores", "passes", "reads", "writes", "rss_mib")


def missing() -> str | None:
    """Return why this cannot be measured here."""
    try:
        binaries.find(*PROGRAMS, "kwok")
    except binaries.UnavailableError as error:
        return str(error)
    return None


def measure(options: Options) -> Report:
    """Measure all three."""
    report = Report(raw={})
    pods, steady_s, count = (10, 15, 30) if options.quick else (100, 65, 100 * options.rounds)
    with FakeNodes(pod_range=thousand_pods.POD_RANGE) as bed, programs() as running:
        say(f"{count} relabels")
        relabelled = relabels.measure(bed, running, PODS_OF_A_ROSTER, count)
        thousand_pods.prepare(bed, running, relabelled["said"])
        say("an operator without clusters")
        rest = thousand_pods.idle(bed, running, steady_s / 2)
        found = []
        for mode in MODES:
            say(f"{CLUSTERS} clusters of {pods} pods, control {mode}")
            found.append(
                thousand_pods.measure(
                    bed, running, mode, clusters=CLUSTERS, pods=pods, steady_s=steady_s
                )
            )
    report.raw = {"relabels": relabelled, "idle": rest, "clusters": found}
    report.figures = {
        "followed_p50_ms": relabelled["followed_ms"]["p50"],
        "followed_p99_ms": relabelled["followed_ms"]["p99"],
        "idle_cores": rest["cores"],
        "idle_rss_mib": rest["rss_mib"],
    }
    report.tables = [_relabels(relabelled), _operator(rest, found, CLUSTERS * pods)]
    return report


def _relabels(found: Mapping[str, Any]) -> Table:
    title = (
        f"Role label patched, milliseconds ({found['pods']} pods, {found['gateways']} gateways, "
        f"{found['followed_ms']['count']} relabels)"
    )
    names = ("p50", "p90", "p99", "max")
    rows = [
        ["the patch alone", *(found["patch_ms"][name] for name in names)],
        ["every gateway places by it", *(found["followed_ms"][name] for name in names)],
        ["goal", GOALS["followed"][0], None, GOALS["followed"][1], None],
    ]
    return Table(title, ["", *names], rows)


def _operator(rest: Mapping[str, float], found: list[Any], pods: int) -> Table:
    goal_cores, goal_mib = GOALS["idle"]
    rows: list[list[object]] = [["no cluster", *(rest[name] for name in _COLUMNS)]]
    rows.append(["goal", None, None, goal_cores, None, None, None, goal_mib])
    for each in found:
        for part in ("first", "steady", "restarted"):
            title = f"control {each['mode']}: {part}"
            rows.append([title, *(each[part][name] for name in _COLUMNS)])
    return Table(f"The operator, {pods} pods in {CLUSTERS} clusters", ["", *_COLUMNS], rows)
