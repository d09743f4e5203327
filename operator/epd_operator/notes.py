"""Tells users what happened: Events on the `EPDCluster`, each thing once.

The name of an Event is made from what it says, so that the same note, told twice, is one Event
that counts. Nothing waits for it and nothing fails with it.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from epd_operator.actions import Note
from epd_operator.objects import MANAGER, Kind, Manifest, Ref, digest, timestamp
from epd_operator.ports import AlreadyExistsError, Cluster, ClusterCallError

log = logging.getLogger(__name__)


async def tell(
    cluster: Cluster, about: Mapping[str, Any], note: Note, now: datetime, identity: str = ""
) -> None:
    """Post a note on an `EPDCluster`; `identity` tells two happenings of equal words apart."""
    event = event_of(about, note, now, identity)
    log.info("%s %s: %s", event["metadata"]["namespace"], note.reason, note.message)
    try:
        try:
            await cluster.create(event)
        except AlreadyExistsError:
            await _count(cluster, Ref.to(event), now)
    except ClusterCallError as error:
        log.warning("event %s is lost: %s", note.reason, error)


def event_of(about: Mapping[str, Any], note: Note, now: datetime, identity: str = "") -> Manifest:
    """Return the Event of a note."""
    metadata = about["metadata"]
    said = [metadata["uid"], note.reason, note.about, note.message, identity]
    when = timestamp(now)
    return {
        **Kind.EVENT.type_meta,
        "metadata": {
            "name": f"{metadata['name']}.{digest(said, 16)}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            **Kind.EPD_CLUSTER.type_meta,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if note.is_warning else "Normal",
        "reason": note.reason,
        "message": note.message[:1024],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": MANAGER,
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }


async def _count(cluster: Cluster, ref: Ref, now: datetime) -> None:
    event = await cluster.get(ref)
    if event is not None:
        again = {"count": int(event.get("count") or 1) + 1, "lastTimestamp": timestamp(now)}
        await cluster.patch(ref, again)
