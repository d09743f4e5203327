"""Merges a user's pod template onto the pod that we build, as `kubectl patch` would.

Objects are merged field by field. Lists whose items have a name of their own (containers by name,
environment variables by name, mounts by path, …) are merged item by item, the user's word last.
Tolerations are added to ours. Every other list, and every plain value, takes the place of ours.
"""

from collections.abc import Mapping
from typing import Any, Final

from epd_operator.objects import Manifest

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "resourceClaims": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_ADDED: Final = frozenset({"tolerations"})
_DEFAULTS: Final = {"protocol": "TCP"}

# Exactly one of these says what a volume is: the user's choice must not stand beside ours.
_UNMERGED: Final = frozenset({"volumes"})


def merged(base: Manifest, template: Mapping[str, Any] | None) -> Manifest:
    """Return `base`, a pod template, with the user's `metadata` and `spec` merged on top.

    Of the metadata, labels and annotations are taken; the rest belongs to the operator.
    """
    if not template:
        return base
    metadata = template.get("metadata") or {}
    taken = {part: metadata[part] for part in ("labels", "annotations") if metadata.get(part)}
    # Ours last: by these labels gateways, Services and the operator find the pod.
    marks = _object(taken, base["metadata"])
    return {
        **base,
        "metadata": marks,
        "spec": _object(base["spec"], template.get("spec") or {}),
    }


def _object(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(ours)
    for field, value in theirs.items():
        if value is None:
            result.pop(field, None)
        elif isinstance(value, Mapping) and isinstance(result.get(field), Mapping):
            result[field] = _object(result[field], value)
        elif isinstance(value, list) and isinstance(result.get(field), list):
            result[field] = _list(field, result[field], value)
        else:
            result[field] = value
    return result


def _list(field: str, ours: list[Any], theirs: list[Any]) -> list[Any]:
    if field in _ADDED:
        # Of several that fit a taint the first counts, as for how long: the user's.
        return [*theirs, *(item for item in ours if item not in theirs)]
    keys = _KEYS.get(field)
    if keys is None or not all(isinstance(item, Mapping) for item in [*ours, *theirs]):
        return list(theirs)
    result = {_identity(item, keys): item for item in ours}
    for item in theirs:
        identity = _identity(item, keys)
        present = result.get(identity)
        replaces = present is None or field in _UNMERGED
        result[identity] = dict(item) if replaces else _object(present or {}, item)
    return list(result.values())


def _identity(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key, _DEFAULTS.get(key)) for key in keys)
