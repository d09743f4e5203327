"""How many pods each role gets: max-min fairness under bounds.

Pods are handed out one by one to the role with the least headroom, which is Adams' method of
apportionment: no other split has a lower utilisation of its busiest role. More demand of a role
never means fewer pods for it, and a larger fleet never fewer pods for anybody.
"""

from collections.abc import Iterable, Mapping
from math import ceil

from epd.policy.control_view import Bounds
from epd.vocabulary import Role

_ANY = Bounds()
_ROUNDING = 1e-9


def split(
    fleet: int, demand_pods: Mapping[Role, float], bounds: Mapping[Role, Bounds]
) -> dict[Role, int]:
    """Return the pods of each role of `demand_pods`; they add up to `fleet`.

    Bounds are kept wherever the fleet allows: with fewer pods than the minima, minima are filled as
    far as pods go, one pod each first; with more than the maxima, the rest goes beyond them.

    Args:
        fleet: Pods to hand out.
        demand_pods: Work of each role in pods' worth; equal demands go by the mapping's order.
        bounds: By role; `Bounds()` where missing.
    """
    pods = dict.fromkeys(demand_pods, 0)
    floors = {role: bounds.get(role, _ANY).min_pods for role in pods}
    ceilings = {
        role: fleet if (most := bounds.get(role, _ANY).max_pods) is None else most for role in pods
    }
    while fleet and (below := [role for role in pods if pods[role] < floors[role]]):
        pods[min(below, key=lambda role: (pods[role], -demand_pods[role]))] += 1
        fleet -= 1
    for upper in (ceilings, dict.fromkeys(pods, fleet + sum(pods.values()))):
        open_roles = [role for role in pods if pods[role] < upper[role]]
        while fleet and open_roles:
            role = min(open_roles, key=lambda role: _headroom(demand_pods[role], pods[role]))
            pods[role] += 1
            fleet -= 1
            if pods[role] >= upper[role]:
                open_roles.remove(role)
    return pods


def _headroom(demand_pods: float, pods: int) -> tuple[float, float]:
    """Order roles by who needs the next pod most: the busiest; idle ones by who has fewest."""
    if demand_pods <= 0:
        return (0.0, pods)
    return (-demand_pods / pods if pods else float("-inf"), -demand_pods)


def utilisation(demand_pods: Mapping[Role, float], pods: Mapping[Role, int]) -> float:
    """Return the utilisation of the busiest role; infinite if one with work has no pod."""
    return max(_shares(demand_pods, pods), default=0.0)


def _shares(demand_pods: Mapping[Role, float], pods: Mapping[Role, int]) -> Iterable[float]:
    for role, demand in demand_pods.items():
        if demand > 0:
            yield demand / pods[role] if pods.get(role) else float("inf")


def fleet_pods(demand_pods: Mapping[Role, float], bounds: Mapping[Role, Bounds]) -> int:
    """Return the size of the smallest fleet that serves the demand: each role rounds up."""
    return sum(
        max(bounds.get(role, _ANY).min_pods, ceil(demand - _ROUNDING))
        for role, demand in demand_pods.items()
    )
