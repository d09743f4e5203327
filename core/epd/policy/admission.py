"""When offline work may begin beside online work: xLLM's co-location rules, decided per request.

Online work has a client who waits; offline work is best effort. It begins only

- on a prefill pod that prefills nothing, so that it delays an online prompt by one prompt at most;
- where a decode pod has room, nothing waits, and its answers would still meet the TPOT with one
  more among them (latency-bounded admission).

Whoever asks keeps offline requests in line until then. Once begun they are served like others.
"""

from collections.abc import Iterable
from math import inf
from typing import Final

from epd.policy.pods import Costs, PodView
from epd.vocabulary import Stage

_PREFILL: Final = Stage.PREFILL
_DECODE: Final = Stage.DECODE

TPOT_SHARE: Final = 0.98
"""Of the TPOT, what steps may take with offline work among them (OOCO, arXiv 2511.21862)."""


def step_ms(pod: PodView, answers: int, costs: Costs) -> float:
    """Return the predicted time per token with so many answers side by side; 0 while unknown.

    What a token took on average, scaled from the batch of that time to this one.
    """
    known = pod.loads[_DECODE]
    if not known.tokens:
        return 0.0
    share = costs.decode_share
    return known.service_ms / known.tokens * (1 + share * answers) / (1 + share * known.batch)


def admits_offline(pods: Iterable[PodView], costs: Costs) -> bool:
    """Say whether an offline request may begin now.

    Args:
        pods: All pods.
        costs: The constants; without `tpot_ms` only what waits keeps offline work back.
    """
    known = [pod for pod in pods if pod.healthy and not pod.suspect]
    idle = any(_PREFILL in pod.stages and not pod.loads[_PREFILL].outstanding for pod in known)
    return idle and any(_DECODE in pod.stages and _has_room(pod, costs) for pod in known)


def _has_room(pod: PodView, costs: Costs) -> bool:
    answers = pod.loads[_DECODE]
    if answers.waiting or pod.kv_used_permille > costs.kv_full_permille:
        return False
    if not answers.outstanding or costs.tpot_ms == inf:
        return True
    predicted_ms = step_ms(pod, answers.outstanding + 1, costs)
    return 0 < predicted_ms <= TPOT_SHARE * costs.tpot_ms
