"""What `epd top` draws: a snapshot of the gateway as lines that fit a terminal. Pure.

Letters of ASCII only, and no meaning in colour alone: it must serve over any connection, at night.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, unique
from typing import Any, Final

from epd.vocabulary import Role, Stage

BAR_CHARACTERS: Final = 20
FULL_BAR: Final = 8
"""A bar is full at the load of the busiest pod, or at so many pieces of work if that is more."""

LEAST_DECISIONS: Final = 4
_FIXED_LINES: Final = 11
_ORDER: Final = {role.value: place for place, role in enumerate(Role)}

Json = Mapping[str, Any]


@unique
class Mood(StrEnum):
    """What a line is, for whoever has colours."""

    PLAIN = ""
    TITLE = "bold"
    GOOD = "green"
    BAD = "bold red"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen."""

    text: str
    mood: Mood = Mood.PLAIN


def frame(snapshot: Json, width: int = 80, height: int | None = 24) -> list[Line]:
    """Return the lines of a screen.

    Args:
        snapshot: What the gateway's `/snapshot` says.
        width: Characters of a line; what is longer is cut.
        height: Lines at most; None: as many as it takes.
    """
    pods = sorted(snapshot["pods"], key=lambda pod: (_ORDER.get(pod["role"], 99), pod["name"]))
    decisions = decision_lines(snapshot)
    room = 10_000 if height is None else max(2, height - _FIXED_LINES)
    kept = min(len(decisions), max(LEAST_DECISIONS, room - len(pods)))
    lines = [*_head(snapshot), Line(""), *_stages(snapshot["stages"]), Line("")]
    lines += [*_pods(pods, max(1, room - kept)), Line("DECISIONS", Mood.TITLE), *decisions[:kept]]
    return [Line(line.text[:width].rstrip(), line.mood) for line in lines[:height]]


def bar(share: float, characters: int = BAR_CHARACTERS) -> str:
    """Return a bar of which `share` is filled; anything at all shows."""
    filled = max(share > 0, min(characters, round(share * characters)))
    return f"[{'#' * filled}{'.' * (characters - filled)}]"


def _head(snapshot: Json) -> list[Line]:
    clock = datetime.fromtimestamp(snapshot["time"], UTC).strftime("%H:%M:%S UTC")
    model = ", ".join(snapshot["models"]) or "no model yet"
    title = f"{snapshot['cluster']}: {model}  roster {snapshot['roster_version']}  {clock}"
    missing = " and ".join(snapshot["missing_stages"])
    traffic = (
        f"{snapshot['requests_per_s']:g} requests/s  {snapshot['output_tokens_per_s']:g} tokens/s"
        f"  {snapshot['in_flight']} in flight  {snapshot['failed']} failed"
        f"  {snapshot['retried']} retried  (last {snapshot['window_s']:.0f} s)"
    )
    served = Line(f"NOT READY: no pod for {missing}", Mood.BAD) if missing else Line(traffic)
    return [Line(title, Mood.TITLE), served, _objective(snapshot["slo"])]


def _objective(slo: Json) -> Line:
    aim = f"SLO {slo['attainment_percent']:g} % within"
    parts = [
        f"{name} {slo[f'{key}_ms']:g} ms (is {_number(slo[f'{key}_reached_ms'])})"
        for name, key in (("TTFT", "ttft"), ("TPOT", "tpot"))
    ]
    attained = slo["attained_percent"]
    if attained is None:
        return Line(f"{aim} {', '.join(parts)}: no traffic")
    met = attained >= slo["attainment_percent"]
    verdict = f"{'MET' if met else 'MISSED'} {attained:g} %"
    return Line(f"{aim} {', '.join(parts)}: {verdict}", Mood.GOOD if met else Mood.BAD)


def _stages(stages: Sequence[Json]) -> list[Line]:
    head = f"{'STAGE':<8}{'DONE':>6}{'FAIL':>5}{'NOW':>5}{'P50':>8}{'P90 ms':>8}{'HANDOFF':>8}"
    lines = [Line(f"{head}  P90 OF SLO", Mood.TITLE)]
    for stage in stages:
        share = stage["of_slo_percent"]
        told = "-" if share is None else f"{bar(share / 100)} {share} %"
        text = (
            f"{stage['stage']:<8}{stage['count']:>6}{stage['failed']:>5}{stage['outstanding']:>5}"
            f"{_number(stage['p50_ms']):>8}{_number(stage['p90_ms']):>8}"
            f"{_number(stage['handoff_p90_ms']):>8}  {told}"
        )
        lines.append(Line(text, Mood.BAD if (share or 0) > 100 else Mood.PLAIN))
    return lines


def _pods(pods: Sequence[Json], room: int) -> list[Line]:
    """Return a line a pod, or a line a role where the pods do not fit."""
    if len(pods) > room:
        return _roles(pods, room)
    most = max([FULL_BAR, *(_work(pod) for pod in pods)])
    head = f"{'ROLE':<22}{'POD':<17}{'E/P/D':>9}  {'LOAD':<22}{'KV':>5}"
    lines = [Line(head, Mood.TITLE)]
    for pod in pods:
        work = "/".join(str(pod["outstanding"][stage]) for stage in Stage)
        used = pod["kv_used_percent"]
        load = bar(_work(pod) / most) if pod["healthy"] else pod["state"].upper()
        kv = "-" if used is None else f"{used:.0f}%"
        text = f"{pod['role']:<22}{_short(pod['name'], 16):<17}{work:>9}  {load:<22}{kv:>5}"
        lines.append(Line(text, Mood.PLAIN if pod["healthy"] else Mood.BAD))
    return lines


def _roles(pods: Sequence[Json], room: int) -> list[Line]:
    lines = [Line(f"{'ROLE':<22}{'PODS':>6}{'READY':>7}{'WORK':>7}  LOAD OF A POD", Mood.TITLE)]
    most = max([FULL_BAR, *(_work(pod) for pod in pods)])
    for role in sorted({pod["role"] for pod in pods}, key=lambda role: _ORDER.get(role, 99)):
        of_role = [pod for pod in pods if pod["role"] == role]
        ready = sum(pod["healthy"] for pod in of_role)
        work = sum(_work(pod) for pod in of_role)
        text = f"{role:<22}{len(of_role):>6}{ready:>7}{work:>7}  {bar(work / len(of_role) / most)}"
        lines.append(Line(text, Mood.PLAIN if ready == len(of_role) else Mood.BAD))
    return lines[: room + 1]


def decision_lines(snapshot: Json) -> list[Line]:
    """Return what was decided, the latest first, with reasons; at least one line."""
    control = snapshot["control"]
    lines = []
    if control is not None:
        lines += _last_pass(control)
    explained = set()
    for made in (control or {}).get("recent", ()):
        clock, why = made["time"][11:19], "; ".join(made["reasons"])
        for flip in made["enacted"]:
            explained.add((flip["pod"], flip["to"]))
            lines.append(Line(f"{clock} {flip['pod']} {flip['from']} -> {flip['to']}: {why}"))
    for flip in snapshot["flips"]:
        if (flip["pod"], flip["to"]) in explained:
            continue
        clock = datetime.fromtimestamp(flip["time"], UTC).strftime("%H:%M:%S")
        lines.append(Line(f"{clock} {flip['pod']} {flip['from']} -> {flip['to']}"))
    return lines or [Line("none: no control loop is known here, and no role has changed")]


def _last_pass(control: Json) -> list[Line]:
    clock = control["time"][11:19]
    wants = ", ".join(f"{role} {pods}" for role, pods in control["desired"].items())
    lines = [Line(f"{clock} {control['mode']}: {control['hold'] or 'flips'}; wants {wants}")]
    if control["problem"]:
        lines.append(Line(f"  {control['problem']}", Mood.BAD))
    return lines + [Line(f"  {reason}") for reason in control["reasons"]]


def _work(pod: Json) -> int:
    return sum(pod["outstanding"].values())


def _short(name: str, characters: int) -> str:
    """Return a name, its beginning cut off where it is too long: the end tells pods apart."""
    return name if len(name) <= characters else f"~{name[1 - characters :]}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
