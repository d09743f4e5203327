"""How a cluster's pods are split before anything has been measured.

The rules: a method deals out its roles (`Method.roles`). Each of them keeps at least its `min`
pods, 1 where `spec.roles` does not list it, and at most its `max`, unbounded where none is given.
`Auto` narrows to the methods that deal out every listed role and takes the first, in the order of
`MethodName.methods`, whose bounds `spec.replicas` meets: three pods become one encode, one prefill
and one decode; two become one encode-prefill and one decode; one does everything.

`split_problems` and `initial_roles` are a pair: where the first finds nothing, the second works.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epd.api.base import Location
from epd.api.names import MethodName, RoleName
from epd.vocabulary import Method, Role

if TYPE_CHECKING:
    from epd.api.v1alpha1 import EPDClusterSpec


@dataclass(frozen=True, slots=True)
class RoleBounds:
    """How many pods a role may have; `max_pods` None means no upper bound."""

    min_pods: int = 1
    max_pods: int | None = None


def initial_roles(spec: "EPDClusterSpec") -> list[Role]:
    """Return the role each pod starts with: `spec.replicas` roles, in stage order.

    Beyond the minima, pods go one by one to the role that has fewest, the later stage first where
    two are equal: decode pods hold their work longest. Nothing is random; equal specs give equal
    answers.
    """
    method = chosen_method(spec)
    bounds = role_bounds(spec, method)
    pods = {role: bounds[role].min_pods for role in method.roles}
    for _ in range(spec.replicas - sum(pods.values())):
        open_roles = [role for role in method.roles if not _is_full(pods[role], bounds[role])]
        pods[min(reversed(open_roles), key=pods.__getitem__)] += 1
    return [role for role in method.roles for _ in range(pods[role])]


def chosen_method(spec: "EPDClusterSpec") -> Method:
    """Return the method the cluster starts with: the one asked for, or what `Auto` comes to."""
    return next(m for m in _candidates(spec) if _misfit(spec, m) is None)


def role_bounds(spec: "EPDClusterSpec", method: Method) -> Mapping[Role, RoleBounds]:
    """Return the bounds of every role that `method` deals out."""
    listed = {entry.name.role: RoleBounds(entry.min, entry.max) for entry in spec.roles}
    return {role: listed.get(role, RoleBounds()) for role in method.roles}


def split_problems(spec: "EPDClusterSpec") -> list[tuple[Location, str]]:
    """Return what in `method`, `replicas` and `roles` contradicts itself, each with its place."""
    problems = [*_repeated_names(spec), *_undealt_names(spec)]
    if problems:
        return problems
    candidates = _candidates(spec)
    if not candidates:
        names = ", ".join(entry.name for entry in spec.roles)
        return [(("roles",), f"no method deals out {names} together; methods: {_all_methods()}")]
    misfits = [_misfit(spec, method) for method in candidates]
    # The preferred method's reason is the one to show: the others are what we would fall back to.
    return [] if None in misfits else [(("replicas",), misfits[0] or "")]


def _candidates(spec: "EPDClusterSpec") -> list[Method]:
    listed = {entry.name.role for entry in spec.roles}
    return [method for method in spec.method.methods if listed <= set(method.roles)]


def _is_full(pods: int, bounds: RoleBounds) -> bool:
    return bounds.max_pods is not None and pods >= bounds.max_pods


def _misfit(spec: "EPDClusterSpec", method: Method) -> str | None:
    """Say why `spec.replicas` pods cannot be split by `method`, or None if they can."""
    bounds = role_bounds(spec, method)
    least = sum(b.min_pods for b in bounds.values())
    if spec.replicas < least:
        parts = ", ".join(f"{RoleName.of(role)} {b.min_pods}" for role, b in bounds.items())
        return (
            f"{spec.replicas} is too few for method {method}: the minima add up to {least} "
            f"({parts}); raise spec.replicas, lower a min or choose another method"
        )
    maxima = [b.max_pods for b in bounds.values() if b.max_pods is not None]
    if len(maxima) == len(bounds) and spec.replicas > sum(maxima):
        parts = ", ".join(f"{RoleName.of(role)} {b.max_pods}" for role, b in bounds.items())
        return (
            f"{spec.replicas} is too many for method {method}: the maxima add up to "
            f"{sum(maxima)} ({parts}); lower spec.replicas or raise a max"
        )
    return None


def _repeated_names(spec: "EPDClusterSpec") -> Iterator[tuple[Location, str]]:
    first: dict[RoleName, int] = {}
    for index, entry in enumerate(spec.roles):
        earlier = first.setdefault(entry.name, index)
        if earlier != index:
            yield (
                ("roles", index, "name"),
                f"{entry.name} is already at spec.roles[{earlier}]; list each role once",
            )


def _undealt_names(spec: "EPDClusterSpec") -> Iterator[tuple[Location, str]]:
    dealt = {role for method in spec.method.methods for role in method.roles}
    for index, entry in enumerate(spec.roles):
        if entry.name.role not in dealt:
            who = (
                "no method deals"
                if spec.method is MethodName.AUTO
                else f"{spec.method} does not deal"
            )
            allowed = ", ".join(name for name in RoleName if name.role in dealt)
            yield ("roles", index, "name"), f"{who} out {entry.name}; allowed: {allowed}"


def _all_methods() -> str:
    return "; ".join(
        f"{method} ({', '.join(RoleName.of(role) for role in method.roles)})"
        for method in MethodName.AUTO.methods
    )
