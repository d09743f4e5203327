"""Which method and which split serve a mean request best: HydraInfer's profiler in closed form.

Each role sustains so many requests per second on one pod that waits stay within the TTFT and steps
within the TPOT; a method serves what its weakest role can. Decode beside other stages keeps
HydraInfer's stage-level budget: a step ends within the TPOT, and the rest of it is theirs. Encode
runs beside both, and prompts fill steps together, as they do under load.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

from epd.policy.control_view import Bounds, Slo
from epd.policy.curves import CostCurves, RequestShape
from epd.policy.split import split
from epd.vocabulary import Method, Role, Stage

_STEPS = 30
_BETTER = 1.05
_OVERLAP_COST = 0.5  # of the time that encode and prefill share, as in `pods.Costs.encode_share`


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """What one method promises.

    Attributes:
        method: How the fleet is split.
        pods: Pods by role.
        requests_per_s: What the fleet sustains under the SLO; 0: it cannot meet it at all.
        weakest: The role that bounds it.
    """

    method: Method
    pods: Mapping[Role, int]
    requests_per_s: float
    weakest: Role


def rank_methods(
    fleet: int,
    curves: CostCurves,
    shape: RequestShape,
    slo: Slo,
    bounds: Mapping[Role, Bounds] | None = None,
    current: Method | None = None,
) -> list[MethodChoice]:
    """Return every method that the fleet is large enough for, best first; empty without pods.

    Args:
        fleet: Pods to split.
        curves: What stages cost.
        shape: The mean request of the last minutes.
        slo: The objective.
        bounds: By role.
        current: The method in force; another must be better by 5 % to go before it.
    """
    choices = [
        _best_split(method, fleet, curves, shape, slo, bounds or {})
        for method in Method
        if len(method.roles) <= fleet
    ]
    return sorted(
        choices,
        key=lambda choice: choice.requests_per_s * (_BETTER if choice.method is current else 1),
        reverse=True,
    )


def _best_split(
    method: Method,
    fleet: int,
    curves: CostCurves,
    shape: RequestShape,
    slo: Slo,
    bounds: Mapping[Role, Bounds],
) -> MethodChoice:
    pods = dict.fromkeys(method.roles, 1)
    rates: dict[Role, float] = {}
    for _ in range(3):  # larger pools queue less, and what queues less needs a smaller pool
        rates = {role: role_rate(role, method, curves, shape, slo, pods[role]) for role in pods}
        work = {role: 1 / rate if rate else float(fleet) for role, rate in rates.items()}
        pods = split(fleet, work, bounds)
    total = {role: pods[role] * rates[role] for role in pods}
    weakest = min(total, key=lambda role: total[role])
    return MethodChoice(method, pods, total[weakest], weakest)


def role_rate(
    role: Role, method: Method, curves: CostCurves, shape: RequestShape, slo: Slo, pods: int = 1
) -> float:
    """Return the requests per second that one of `pods` equal pods of a role sustains.

    Infinite for a role that the request does not need.
    """
    prefills = Stage.PREFILL in role.stages
    encode_ms = curves.pod_ms(Stage.ENCODE, shape, slo) if Stage.ENCODE in role.stages else 0.0
    alone_ms = encode_ms + (curves.pod_ms(Stage.PREFILL, shape, slo) if prefills else 0.0)
    decodes = Stage.DECODE in role.stages and shape.output_tokens > 1
    if not alone_ms and not decodes:
        return float("inf")
    queues = sum(1 for other in method.roles if other.stages - {Stage.DECODE})
    slack_ms = (slo.ttft_ms - curves.ttft(shape)) / (queues if shape.images else 1)
    prefill_ms = curves.prefill_share(shape, slack_ms / 2) if prefills else 0.0
    most = curves.kv_tokens / shape.context_tokens if decodes else 0.0

    def meets_slo(rate: float) -> bool:
        decoding = 0.0
        if decodes:
            tokens_per_ms = rate * (shape.output_tokens - 1) / 1e3
            period_ms = min(slo.tpot_ms, most / tokens_per_ms if tokens_per_ms else slo.tpot_ms)
            batch = tokens_per_ms * period_ms
            step_ms = curves.decode_step(max(1.0, batch), batch * shape.context_tokens)
            decoding = step_ms / period_ms
        free = 1 - decoding
        if free <= 0 or not alone_ms:
            return free >= 0 and not alone_ms
        busy = _beside(rate * encode_ms / 1e3, rate * prefill_ms / 1e3, decoding)
        waits_ms = slack_ms - alone_ms * (1 / free - 1)
        limit = sustainable_utilisation(alone_ms / free, waits_ms, slo.attainment, pods)
        return (busy - decoding) / free <= limit

    least_ms = max(encode_ms, prefill_ms) or slo.tpot_ms / curves.decode_batch(shape, slo.tpot_ms)
    return _largest(meets_slo, 2e3 / least_ms)


def _beside(encoding: float, prefilling: float, decoding: float) -> float:
    """Return how busy a pod is whose vision engine runs beside its language engine.

    Both compute while prefill runs, and slow each other; decode waits for memory.
    """
    language = prefilling + decoding
    shared = min(encoding, language) * prefilling / (language or 1.0)
    return max(encoding, language) + _OVERLAP_COST * shared


def sustainable_utilisation(
    service_ms: float, slack_ms: float, attainment: float, pods: int = 1
) -> float:
    """Return how busy pods may be for `attainment` of their work to wait at most `slack_ms`.

    Poisson arrivals, equal service, one queue: P(wait > t) is about
    u^(sqrt(2(n+1))-1) exp(-2n(1-u)t/s), after Sakasegawa (1977) and the tail of M/D/1.

    Args:
        service_ms: Time of one piece.
        slack_ms: What is left of the TTFT for waiting.
        attainment: Share of the work that must start in time, 0 to 1.
        pods: Pods that share the queue.
    """
    if slack_ms <= 0 or service_ms <= 0:
        return 1.0 if slack_ms > 0 else 0.0
    late = max(1e-6, 1 - attainment)
    power = (2 * (pods + 1)) ** 0.5 - 1
    pace = 2 * pods * slack_ms / service_ms
    return _largest(lambda u: power * log(max(u, 1e-12)) - pace * (1 - u) <= log(late), 1.0)


def _largest(holds: Callable[[float], bool], upper: float) -> float:
    """Return the largest number up to `upper` for which `holds`, by bisection."""
    low, high = 0.0, upper
    if holds(upper):
        return upper
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
