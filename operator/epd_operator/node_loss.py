"""How long pods of ours stay bound to a node that has gone silent."""

from typing import Final

from epd_operator.objects import Manifest

NODE_LOST_S: Final = 30
"""Kubernetes' own answer is 300, in which nobody replaces the pods."""


def node_loss_tolerations() -> list[Manifest]:
    """Return the tolerations of every pod; those of a user's template come on top."""
    return [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOST_S,
        }
        for trouble in ("not-ready", "unreachable")
    ]
