"""Plans the end of a cluster: gateways first, then our finalizer; the rest follows its owner. Pure.

Streams in flight need their workers until the gateways have ended, so these are deleted first. The
finalizer goes when they are gone, or after a deadline whatever happens, and nothing here reads the
spec: a cluster that is unreadable, or whose gateways never end, can still be deleted.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from epd.vocabulary import FINALIZER
from epd_operator.actions import Delete, Note, Patch, Steps
from epd_operator.objects import Manifest, Ref, is_controlled_by, moment_of

DELETION_DEADLINE_S: Final = 90.0
"""Longer than gateways may take by their grace period."""

POLL_S: Final = 1.0


def plan_deletion(
    cluster: Manifest,
    deployment: Manifest | None,
    gateway_pods: Sequence[Manifest],
    now: datetime,
    steps: Steps,
) -> None:
    """Add the next steps towards the end of a cluster that was deleted.

    Args:
        cluster: The `EPDCluster`, as it is.
        deployment: The Deployment of its gateways, if there still is one.
        gateway_pods: The gateways' pods.
        now: The time.
        steps: Added to.
    """
    metadata = cluster["metadata"]
    finalizers = metadata.get("finalizers") or []
    if FINALIZER not in finalizers:
        return
    asked = moment_of(metadata.get("deletionTimestamp")) or now
    waited_s = (now - asked).total_seconds()
    is_late = waited_s >= DELETION_DEADLINE_S
    ours = deployment if deployment and is_controlled_by(deployment, metadata["uid"]) else None
    if ours is not None and ours["metadata"].get("deletionTimestamp") is None:
        note = Note("GatewaysDeleted", "the gateways end, their streams first", "gateway")
        steps.actions.append(Delete(Ref.to(ours), ours["metadata"]["uid"], note))
    if (ours is not None or gateway_pods) and not is_late:
        steps.within(min(POLL_S, DELETION_DEADLINE_S - waited_s))
        return
    body = {"metadata": {"finalizers": [name for name in finalizers if name != FINALIZER]}}
    steps.actions.append(Patch(Ref.to(cluster), metadata["resourceVersion"], body))
