"""Which flips the demo makes: every pod takes over another one's role, no stage ever uncovered."""

from collections.abc import Sequence

from epd.vocabulary import Role, Stage


def rotation(roles: Sequence[Role]) -> list[tuple[int, Role]]:
    """Return flips, as (pod, new role), after which each pod has its left neighbour's role.

    The first pod adds its coming role to the one it has. That sets its right-most neighbour free
    to take the role of the next, and so on, until the first can drop its old role. Pods that are
    all alike have nothing to exchange: two of them or more take the stages apart and put them
    together again. One pod alone keeps what it has, or a stage would have no pod.
    """
    if len(roles) < 2:
        return []
    if len(set(roles)) == 1:
        return _apart_and_together(roles[0])
    coming = [roles[index - 1] for index in range(len(roles))]
    both = Role.of(roles[0].stages | coming[0].stages)
    steps = [(0, both)]
    steps += [(index, coming[index]) for index in reversed(range(1, len(roles)))]
    steps.append((0, coming[0]))
    now = list(roles)
    flips = []
    for index, role in steps:
        if now[index] is not role:
            now[index] = role
            flips.append((index, role))
    return flips


def _apart_and_together(role: Role) -> list[tuple[int, Role]]:
    """Give the first two pods a part of `role` each, then all of it again."""
    if len(role.stages) < 2:
        return []
    last = max(role.stages, key=list(Stage).index)
    rest = Role.of(role.stages - {last})
    return [(0, rest), (1, Role.of({last})), (0, role), (1, role)]
