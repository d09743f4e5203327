"""Plans everything of a cluster that is no worker pod: certificates, gateways, policies. Pure.

An object is written when it does not exist, when it no longer says what we last made it say, or
when what we want has changed: the digest of the manifest stands on the object itself.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from epd.vocabulary import API_GROUP
from epd_operator import certificates
from epd_operator.actions import Apply, MakeSecret, Note, Secrecy, Steps
from epd_operator.manifests_gateway import gateway_objects
from epd_operator.manifests_policy import policy_objects
from epd_operator.objects import (
    Manifest,
    Ref,
    annotations_of,
    covers,
    digest,
    is_controlled_by,
)
from epd_operator.secrets_made import made_secrets, secret_ref
from epd_operator.wanted import Wanted

APPLIED: Final = f"{API_GROUP}/applied"
"""Annotation on our objects: digest of the manifest that was last applied."""

Present = Mapping[Ref, Manifest]


def wanted_objects(wanted: Wanted) -> list[Manifest]:
    """Return the manifests of all objects but worker pods and certificates."""
    return [_with_digest(each) for each in (*policy_objects(wanted), *gateway_objects(wanted))]


def observed_refs(wanted: Wanted) -> list[Ref]:
    """Return the objects that a plan must know of."""
    secrets = [secret_ref(wanted, what) for what in made_secrets(wanted)]
    return [*secrets, *(Ref.to(manifest) for manifest in wanted_objects(wanted))]


def plan_objects(wanted: Wanted, present: Present, now: datetime, steps: Steps) -> None:
    """Add what must be written to `steps`, and to its troubles what cannot be."""
    _plan_secrets(wanted, present, now, steps)
    for manifest in wanted_objects(wanted):
        ref = Ref.to(manifest)
        found = present.get(ref)
        if found is None:
            note = Note("Created", f"{ref.kind.kind} {ref.name} is created", str(ref))
            steps.actions.append(Apply(manifest, note))
        elif not is_controlled_by(found, wanted.uid):
            steps.troubles.append(_taken(ref))
        elif annotations_of(found).get(APPLIED) != annotations_of(manifest)[APPLIED] or not covers(
            found, manifest
        ):
            note = Note("Updated", f"{ref.kind.kind} {ref.name} is brought up to date", str(ref))
            steps.actions.append(Apply(manifest, note))


def _plan_secrets(wanted: Wanted, present: Present, now: datetime, steps: Steps) -> None:
    found = {what: present.get(secret_ref(wanted, what)) for what in made_secrets(wanted)}
    for what, secret in found.items():
        ref = secret_ref(wanted, what)
        if secret is not None and not is_controlled_by(secret, wanted.uid):
            steps.troubles.append(_taken(ref))
            continue
        due = _due(what, secret, found[Secrecy.AUTHORITY], now)
        if due:
            note = Note("SecretWritten", f"Secret {ref.name}: new {what.value}", ref.name)
            steps.actions.append(MakeSecret(what, secret, note))


def _due(what: Secrecy, secret: Manifest | None, authority: Manifest | None, now: datetime) -> bool:
    match what:
        case Secrecy.AUTHORITY:
            return certificates.authority_is_due(secret, now)
        case Secrecy.LEAF:
            # Signed once its authority is stored: a pass later.
            return (
                authority is not None
                and not certificates.authority_is_due(authority, now)
                and certificates.leaf_is_due(secret, authority, now)
            )
        case Secrecy.API_KEY:
            return secret is None


def _taken(ref: Ref) -> Note:
    message = f"{ref} exists and is not ours; delete or rename it"
    return Note("NameTaken", message, str(ref), is_warning=True)


def _with_digest(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    notes = {**(metadata.get("annotations") or {}), APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": notes}}
