"""Brings this machine's Python and this checkout into pods, so that no image has to be built.

The folders come in as read-only PersistentVolumes at the paths they have here, so that every link
in them holds. hostPath volumes would do the same, but the `restricted` standard refuses those;
claims it allows. The image underneath is `node_files.SHELL_IMAGE`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kube.binaries import ROOT

Manifest = dict[str, Any]

_SIZE: Final = "1Gi"
"""Said, as it must be, and checked by nobody."""


def folders() -> Mapping[str, Path]:
    """Return what a program of ours needs, by the names of its volumes; none lies in another."""
    wanted = {
        "machine": Path("/usr"),
        "project": ROOT,
        "environment": Path(sys.prefix),
        "python": Path(sys.base_prefix),
    }
    kept: dict[str, Path] = {}
    for name, path in wanted.items():
        if not any(path.is_relative_to(other) for other in kept.values()):
            kept[name] = path
    return kept


def claims(namespace: str) -> list[Manifest]:
    """Return the volumes, and the claims to them, of one namespace."""
    return [
        each
        for name, path in folders().items()
        for each in folder_claim(namespace, _claim(name), path)
    ]


def folder_claim(
    namespace: str, name: str, path: Path, access: str = "ReadOnlyMany"
) -> list[Manifest]:
    """Return a volume that is a folder of this machine, and a claim to it, of that name."""
    size = {"storage": _SIZE}
    both = {"accessModes": [access], "storageClassName": ""}
    volume = f"{namespace}-{name}"
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                **both,
                "capacity": size,
                "claimRef": {"namespace": namespace, "name": name},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(path), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**both, "volumeName": volume, "resources": {"requests": size}},
        },
    ]


def volumes() -> list[Manifest]:
    """Return the volumes of a pod."""
    return [
        {
            "name": f"host-{name}",
            "persistentVolumeClaim": {"claimName": _claim(name), "readOnly": True},
        }
        for name in folders()
    ]


def mounts() -> list[Manifest]:
    """Return the mounts of a container."""
    return [
        {"name": f"host-{name}", "mountPath": str(path), "readOnly": True}
        for name, path in folders().items()
    ]


def variables() -> list[Manifest]:
    """Return the environment of a container: our programs are found by their names."""
    path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    # Nobody may write beside the code.
    return [{"name": "PATH", "value": path}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}]


def pod_template(*containers: str) -> Manifest:
    """Return a `podTemplate` that gives all this to containers of a pod, known by their names."""
    return {
        "spec": {
            "volumes": volumes(),
            "containers": [
                {"name": name, "env": variables(), "volumeMounts": mounts()} for name in containers
            ],
        }
    }


def _claim(name: str) -> str:
    return f"host-{name}"
