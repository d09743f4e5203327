"""From traffic and pods to what the policy decides on; pure.

With cost curves, a stage's demand is its arrivals times what the curves say one costs. Without, it
is what workers measured: the time of a piece for encode and prefill (waiting included, so it errs
towards more pods under load), and for decode how near the TPOT is to its limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from epd.api import EPDCluster
from epd.api.roles import chosen_method, role_bounds
from epd.policy.control_view import (
    Bounds,
    ClusterView,
    Limits,
    PodState,
    Slo,
    StageDemand,
)
from epd.policy.curves import CostCurves, RequestShape
from epd.policy.method import sustainable_utilisation
from epd.vocabulary import Method, Role, Stage
from epd_operator.control.ports import FleetPod
from epd_operator.control.signals import Traffic, quantile


@dataclass(frozen=True, slots=True)
class Aim:
    """What a cluster's spec says to the policy."""

    slo: Slo
    limits: Limits
    bounds: Mapping[Role, Bounds]
    method: Method


def aim_of(cluster: EPDCluster) -> Aim:
    """Return what the spec says to the policy."""
    spec = cluster.spec
    control, slo = spec.control, spec.slo
    method = chosen_method(spec)
    return Aim(
        Slo(slo.ttft_milliseconds, slo.tpot_milliseconds, slo.attainment_percent / 100),
        Limits(
            cooldown_s=control.cooldown_seconds,
            max_concurrent_flips=control.max_concurrent_flips,
            max_age_s=max(30.0, 3.0 * control.interval_seconds),
        ),
        {
            role: Bounds(bounds.min_pods, bounds.max_pods)
            for role, bounds in role_bounds(spec, method).items()
        },
        method,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier passes learnt, for moments in which nothing ends.

    Attributes:
        shape: The mean request; None: none was answered yet.
        answer_tokens: The mean answer by kind of request: how long those will be that come now.
            Long answers take long to end, so the mean of all that ended is that of a past mix.
        context_tokens: What a decode step sees of one sequence, on average; None: nothing ran yet.
            Long answers run longer, so this is not the mean request's.
        piece_ms: What workers took for one piece of a stage.
    """

    shape: RequestShape | None = None
    answer_tokens: Mapping[str, float] = field(default_factory=dict)
    context_tokens: float | None = None
    piece_ms: Mapping[Stage, float] = field(default_factory=dict)


def learnt(known: Known, traffic: Traffic) -> Known:
    """Return what is known once `traffic` has been seen."""
    shape, prefilled = known.shape, traffic.finished[Stage.PREFILL]
    ended = {
        kind: traffic.output_tokens.get(kind, 0.0) / answers
        for kind, answers in traffic.answered.items()
        if answers > 0
    }
    answers = {**known.answer_tokens, **ended}
    if prefilled > 0 and answers:
        before = shape or RequestShape()
        encoded = traffic.finished[Stage.ENCODE]
        shape = RequestShape(
            images=traffic.images / max(prefilled, traffic.started[Stage.PREFILL]),
            image_tokens=traffic.tokens[Stage.ENCODE] / encoded if encoded else before.image_tokens,
            prompt_tokens=traffic.tokens[Stage.PREFILL] / prefilled,
            output_tokens=_coming(traffic.accepted, answers) or before.output_tokens,
        )
    pieces = {
        stage: traffic.service_s[stage] / traffic.finished[stage] * 1e3
        for stage in Stage
        if traffic.finished[stage] > 0
    }
    context_tokens = _context_tokens(known, traffic)
    return Known(shape, answers, context_tokens, {**known.piece_ms, **pieces})


def _coming(accepted: Mapping[str, float], answers: Mapping[str, float]) -> float:
    """Return the mean answer of the requests that come now; 0 if none of a known kind does."""
    known = {kind: rate for kind, rate in accepted.items() if rate and kind in answers}
    tokens = sum(rate * answers[kind] for kind, rate in known.items())
    return tokens / sum(known.values()) if known else 0.0


def _context_tokens(known: Known, traffic: Traffic) -> float | None:
    running = sum(
        count for (_, stage), count in traffic.running.items() if stage is not Stage.ENCODE
    )
    if not (running and traffic.running_tokens):
        return known.context_tokens
    now = traffic.running_tokens / running
    before = known.context_tokens
    return now if before is None else (before + now) / 2  # one look is one moment


def view_of(
    now_s: float,
    pods: Sequence[FleetPod],
    traffic: Traffic | None,
    aim: Aim,
    known: Known,
    curves: CostCurves | None,
) -> ClusterView:
    """Return what the policy decides on; without traffic its demand is missing, which is stale.

    Args:
        now_s: The loop's clock.
        pods: The pods now.
        traffic: What was measured; None: nothing could be.
        aim: What the spec says.
        known: What is known, this traffic included.
        curves: What stages cost; None: as the workers measured.
    """
    ready = [pod for pod in pods if pod.ready]
    if traffic is None:
        states = tuple(_state(pod, {}, {}) for pod in pods)
        return ClusterView(now_s, states, {}, aim.method, aim.slo, aim.bounds, aim.limits)
    if curves is not None and known.shape is not None:
        pieces = _priced(curves, known.shape, known.context_tokens, aim.slo)
        demand = _priced_demand(traffic, pieces, known.shape, curves, aim, ready)
    else:
        pieces = dict(known.piece_ms)
        demand = _measured_demand(traffic, pieces, aim, ready)
    held = {key: traffic.waiting.get(key, 0.0) + count for key, count in traffic.running.items()}
    reporting = sum(pod.name in traffic.workers for pod in ready)
    return ClusterView(
        now_s=now_s,
        pods=tuple(_state(pod, held, pieces) for pod in pods),
        demand=demand,
        method=aim.method,
        slo=aim.slo,
        bounds=aim.bounds,
        limits=aim.limits,
        tpot_ms=quantile(traffic.tpot_ms, aim.slo.attainment),
        window_s=traffic.window_s,
        reporting_share=reporting / len(ready) if ready else 1.0,
    )


def _state(
    pod: FleetPod, held: Mapping[tuple[str, Stage], float], pieces: Mapping[Stage, float]
) -> PodState:
    stranded = {
        stage: count * pieces.get(stage, 0.0)
        for stage in Stage
        if (count := held.get((pod.name, stage), 0.0))
    }
    return PodState(pod.name, pod.role, pod.ready, pod.settled, pod.flipped_at_s, stranded)


def _priced(
    curves: CostCurves, shape: RequestShape, context_tokens: float | None, slo: Slo
) -> dict[Stage, float]:
    """Return what one piece keeps a pod busy: an image, a prompt, an answer."""
    answer = replace(shape, seen_tokens=context_tokens or 0.0)
    return {
        Stage.ENCODE: curves.encode(1, shape.image_tokens),
        Stage.PREFILL: curves.pod_ms(Stage.PREFILL, shape, slo),
        Stage.DECODE: curves.pod_ms(Stage.DECODE, answer, slo),
    }


def _arrivals(traffic: Traffic) -> dict[Stage, float]:
    """Return the pieces of each stage that arrive in a second.

    Images count as they are accepted, also where encode is fused with prefill; an answer counts
    with its prompt, for what waits for prefill will want to be decoded.
    """
    prompts = traffic.started[Stage.PREFILL]
    return {Stage.ENCODE: traffic.images, Stage.PREFILL: prompts, Stage.DECODE: prompts}


def _queue_ms(traffic: Traffic, stage: Stage, piece_ms: float, ready: Sequence[FleetPod]) -> float:
    waiting = sum(count for (_, other), count in traffic.waiting.items() if other is stage)
    offered = sum(stage in pod.role.stages for pod in ready)
    return waiting * piece_ms / max(1, offered)


def _priced_demand(
    traffic: Traffic,
    pieces: Mapping[Stage, float],
    shape: RequestShape,
    curves: CostCurves,
    aim: Aim,
    ready: Sequence[FleetPod],
) -> dict[Stage, StageDemand]:
    arrivals = _arrivals(traffic)
    slack_ms = (aim.slo.ttft_ms - curves.ttft(shape)) / (2 if shape.images else 1)
    demand = {}
    for stage, piece_ms in pieces.items():
        pods = max(1, sum(stage in pod.role.stages for pod in ready))
        most = 1.0
        if stage is not Stage.DECODE and piece_ms:
            most = sustainable_utilisation(piece_ms, slack_ms, aim.slo.attainment, pods) or 1.0
        demand[stage] = StageDemand(
            offered_pods=arrivals[stage] * piece_ms / 1e3,
            max_utilisation=most,
            queue_ms=_queue_ms(traffic, stage, piece_ms, ready),
            service_ms=piece_ms,
            samples=round(arrivals[stage] * traffic.window_s),
            age_s=traffic.age_s,
        )
    return demand


def _measured_demand(
    traffic: Traffic, pieces: Mapping[Stage, float], aim: Aim, ready: Sequence[FleetPod]
) -> dict[Stage, StageDemand]:
    arrivals = _arrivals(traffic)
    demand = {}
    for stage in Stage:
        piece_ms = pieces.get(stage, 0.0)
        offered = arrivals[stage] * piece_ms / 1e3
        if stage is Stage.DECODE:
            tpot_ms = quantile(traffic.tpot_ms, aim.slo.attainment) or 0.0
            busy = sum(stage in pod.role.stages for pod in ready)
            offered = busy * tpot_ms / aim.slo.tpot_ms
        demand[stage] = StageDemand(
            offered_pods=offered,
            queue_ms=_queue_ms(traffic, stage, piece_ms, ready),
            service_ms=piece_ms,
            samples=round(arrivals[stage] * traffic.window_s),
            age_s=traffic.age_s,
        )
    return demand
