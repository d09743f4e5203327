"""Which pods may be asked for a stage, in order of trust, and how many of them are looked at."""

from collections.abc import Collection, Container, Iterable, Sequence

from epd.policy.pods import Costs, PodView
from epd.vocabulary import Stage


def draw(
    pods: Sequence[PodView], stage: Stage, avoid: Collection[str]
) -> tuple[Sequence[PodView], bool, int]:
    """Return (candidates, overflow, rank of the list they come from; lower is better).

    Whom in which order: see `epd.policy.placement`.
    """
    usual = [p for p in pods if stage in p.stages and p.healthy and not p.suspect]
    if avoid:
        usual = [pod for pod in usual if pod.name not in avoid]
    if usual:
        return usual, False, 0
    healthy = [pod for pod in pods if pod.healthy]
    others = [pod for pod in healthy if pod.name not in avoid] if avoid else healthy
    for base, rank in ((others, 0), (healthy, 4)):
        trusted = [pod for pod in base if not pod.suspect]
        for known, offset in ((trusted, 0), (base, 2)):
            of_role = [pod for pod in known if stage in pod.stages]
            if of_role:
                return of_role, False, rank + offset
            if known:
                return known, True, rank + offset + 1
    return (), False, 8


def in_turn(
    pods: Sequence[PodView], turn: int, costs: Costs, wanted: Container[str] = ()
) -> Sequence[PodView]:
    """Rotate by `turn`, so that equals take turns, and keep at most `max_considered`.

    Args:
        pods: The candidates.
        turn: A counter.
        costs: The constants.
        wanted: Names of pods that are kept besides.
    """
    if len(pods) <= 1:
        return pods
    start = turn % len(pods)
    rotated = [*pods[start:], *pods[:start]]
    most = costs.max_considered
    if not wanted or len(rotated) <= most:
        return rotated[:most]
    return [*rotated[:most], *(pod for pod in rotated[most:] if pod.name in wanted)]


def of_hash(pods: Iterable[PodView], compatibility_hash: str) -> Sequence[PodView]:
    """Return the pods of a hash; empty: of any."""
    if not compatibility_hash:
        return pods if isinstance(pods, Sequence) else tuple(pods)
    return [pod for pod in pods if pod.compatibility_hash == compatibility_hash]


def groups(pods: Sequence[PodView]) -> Iterable[Sequence[PodView]]:
    """Return the pods by compatibility hash; nearly always there is one group."""
    if len({pod.compatibility_hash for pod in pods}) <= 1:
        return (pods,)
    found: dict[str, list[PodView]] = {}
    for pod in pods:
        found.setdefault(pod.compatibility_hash, []).append(pod)
    return found.values()
