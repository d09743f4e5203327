"""How many pods each role should have when pods come and go. Arithmetic on counts.

The split that the fleet has is the split it keeps: flips, of the control loop or of a user, are
respected. It changes here only when the number of pods does, and then as little as it can.
"""

from collections import Counter
from collections.abc import Mapping

from epd.api.roles import RoleBounds
from epd.vocabulary import Role

Split = Mapping[Role, int]


def fitted(base: Split, first: Split, bounds: Mapping[Role, RoleBounds]) -> dict[Role, int]:
    """Return `base` with pods added or taken until it has as many as `first`.

    Pods are added to the role that lacks most against `first`, the split that the spec begins with,
    and taken from the one that exceeds it most; never below a role's minimum or above its maximum.

    Args:
        base: Pods by role; roles that the method does not deal out have none in the end.
        first: The split the spec begins with, which meets `bounds`.
        bounds: How many pods each role of the method may have.
    """
    wanted = sum(first.values())
    split = {role: base.get(role, 0) for role in first}
    for role, bound in bounds.items():
        split[role] = max(split[role], bound.min_pods)
        if bound.max_pods is not None:
            split[role] = min(split[role], bound.max_pods)
    order = list(first)
    while (pods := sum(split.values())) != wanted:
        if pods < wanted:
            open_roles = [role for role in order if not _is_full(split[role], bounds[role])]
            # The later stage first where two lack as much: decode pods hold their work longest.
            grown = max(reversed(open_roles), key=lambda role: first[role] - split[role])
            split[grown] += 1
        else:
            spare = [role for role in order if split[role] > bounds[role].min_pods]
            shrunk = max(spare, key=lambda role: split[role] - first[role])
            split[shrunk] -= 1
    return split


def lacking(target: Split, present: Split) -> list[Role]:
    """Return one role for each pod that `present` lacks against `target`, the neediest first."""
    counts = Counter(present)
    roles: list[Role] = []
    while True:
        gaps = {role: pods - counts[role] for role, pods in target.items()}
        role = max(gaps, key=gaps.__getitem__, default=None)
        if role is None or gaps[role] <= 0:
            return roles
        roles.append(role)
        counts[role] += 1


def _is_full(pods: int, bound: RoleBounds) -> bool:
    return bound.max_pods is not None and pods >= bound.max_pods
