"""What the `restricted` Pod Security Standard asks of every pod, and a read-only root needs."""

from typing import Final

from epd_operator.objects import Manifest

USER_ID: Final = 65532
"""Whom our containers run as: nobody's account, as the images have it."""

SCRATCH_VOLUME: Final = "scratch"
SCRATCH_PATH: Final = "/tmp"  # noqa: S108 - a mount of the pod's own, not a shared folder


def pod_security_context() -> Manifest:
    """Return the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context() -> Manifest:
    """Return the security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def scratch_volume() -> Manifest:
    """Return the one place of a pod where its containers may write."""
    return {"name": SCRATCH_VOLUME, "emptyDir": {}}


def scratch_mount() -> Manifest:
    """Return the mount of `scratch_volume`."""
    return {"name": SCRATCH_VOLUME, "mountPath": SCRATCH_PATH}
