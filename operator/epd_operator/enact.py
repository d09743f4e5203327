"""Does what a plan says, one call at a time; every call states the world it was planned for."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from epd_operator import certificates
from epd_operator.actions import Action, Apply, Create, Delete, MakeSecret, Note, Patch, Secrecy
from epd_operator.manifests_tls import authority_secret
from epd_operator.notes import tell
from epd_operator.objects import Manifest, Ref
from epd_operator.ports import (
    AlreadyExistsError,
    Cluster,
    ConflictError,
    GoneError,
    RefusedError,
    UnavailableError,
)
from epd_operator.secrets_made import api_key_data, secret_manifest
from epd_operator.wanted import Wanted

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Enacted:
    """What became of a plan.

    Attributes:
        writes: Calls that changed something.
        is_outdated: The world had moved on: look again, and plan anew.
        names_taken: Names of pods that could not be created because somebody else has them.
        refusals: What the server will not do, and why.
        outage: Why the pass ended early; None if it did not.
    """

    writes: int = 0
    is_outdated: bool = False
    names_taken: set[str] = field(default_factory=set)
    refusals: list[Note] = field(default_factory=list)
    outage: str | None = None


async def enact(
    cluster: Cluster,
    owner: Mapping[str, Any],
    actions: Sequence[Action],
    clock: Callable[[], datetime],
    *,
    wanted: Wanted | None = None,
    may_write: Callable[[], bool] = lambda: True,
) -> Enacted:
    """Do the actions in their order.

    A refusal concerns one action; the others are done. An outage ends the pass.

    Args:
        cluster: The API server.
        owner: The `EPDCluster`, on which users are told.
        actions: What to do.
        clock: The time.
        wanted: What the cluster wants; certificates need it.
        may_write: Asked before every write: False once another operator leads.
    """
    result = Enacted()
    for action in actions:
        if not may_write():
            result.outage = "another operator leads"
            break
        try:
            done = await _do(cluster, action, wanted, clock)
        except AlreadyExistsError:
            result.is_outdated = True
            if isinstance(action, Create):
                result.names_taken.add(Ref.to(action.manifest).name)
        except (ConflictError, GoneError) as error:
            log.debug("planned for another world: %s", error)
            result.is_outdated = True
        except RefusedError as error:
            result.refusals.append(Note(error.reason, str(error), is_warning=True))
        except UnavailableError as error:
            result.outage = str(error)
            break
        else:
            result.writes += 1
            if action.note is not None:
                identity = str(done["metadata"]["uid"]) if done else ""
                identity = action.uid if isinstance(action, Delete) else identity
                await tell(cluster, owner, action.note, clock(), identity)
    return result


async def _do(
    cluster: Cluster, action: Action, wanted: Wanted | None, clock: Callable[[], datetime]
) -> Manifest | None:
    match action:
        case Create(manifest):
            return await cluster.create(manifest)
        case Apply(manifest):
            return await cluster.apply(manifest)
        case Patch(ref, version, body):
            metadata = {**(body.get("metadata") or {}), "resourceVersion": version}
            return await cluster.patch(ref, {**body, "metadata": metadata})
        case Delete(ref, uid):
            await cluster.delete(ref, uid)
            return None
        case MakeSecret(what, present):
            if wanted is None:
                raise ValueError("Secrets are made for a valid cluster only")
            return await _make_secret(cluster, what, present, wanted, clock())


async def _make_secret(
    cluster: Cluster, what: Secrecy, present: Manifest | None, wanted: Wanted, now: datetime
) -> Manifest | None:
    match what:
        case Secrecy.AUTHORITY:
            data = certificates.new_authority(present, f"epd {wanted.key}", now)
        case Secrecy.LEAF:
            authority = await cluster.get(authority_secret(wanted))
            if authority is None:
                raise GoneError("the authority's Secret is gone")
            data = certificates.new_leaf(authority, now)
        case Secrecy.API_KEY:
            data = api_key_data(wanted)
    if present is None:
        return await cluster.create(secret_manifest(wanted, what, data, ""))
    version = present["metadata"]["resourceVersion"]
    return await cluster.apply(secret_manifest(wanted, what, data, version))
