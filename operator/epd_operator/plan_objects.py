"""Plans everything of a cluster that is no worker pod: certificates, gateways, policies. Pure.

An object is written when it does not exist, when it no longer says what we last made it say, or
when what we want has changed: the digest of the manifest stands on the object itself.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from epd.vocabulary import API_GROUP, Component
from epd_operator import certificates
from epd_operator.actions import Apply, Certify, Note, Renewal, Steps
from epd_operator.manifests_gateway import gateway_objects
from epd_operator.manifests_policy import policy_objects
from epd_operator.manifests_tls import authority_secret, leaf_secret
from epd_operator.objects import (
    Kind,
    Manifest,
    Ref,
    annotations_of,
    covers,
    digest,
    is_controlled_by,
)
from epd_operator.wanted import Wanted

APPLIED: Final = f"{API_GROUP}/applied"
"""Annotation on our objects: digest of the manifest that was last applied."""

Present = Mapping[Ref, Manifest]


def wanted_objects(wanted: Wanted) -> list[Manifest]:
    """Return the manifests of all objects but worker pods and certificates."""
    return [_with_digest(each) for each in (*policy_objects(wanted), *gateway_objects(wanted))]


def observed_refs(wanted: Wanted) -> list[Ref]:
    """Return the objects that a plan must know of."""
    secrets = [authority_secret(wanted), leaf_secret(wanted)]
    return [*secrets, *(Ref.to(manifest) for manifest in wanted_objects(wanted))]


def plan_objects(wanted: Wanted, present: Present, now: datetime, steps: Steps) -> None:
    """Add what must be written to `steps`, and to its troubles what cannot be."""
    _plan_certificates(wanted, present, now, steps)
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


def secret_manifest(wanted: Wanted, what: Renewal, data: Manifest, version: str) -> Manifest:
    """Return a certificate Secret; `version` is the one it must still have, empty for none."""
    is_leaf = what is Renewal.LEAF
    ref = leaf_secret(wanted) if is_leaf else authority_secret(wanted)
    metadata = wanted.metadata(ref.name, Component.WORKER)
    if version:
        metadata["resourceVersion"] = version
    kind = "kubernetes.io/tls" if is_leaf else "Opaque"
    return {**Kind.SECRET.type_meta, "metadata": metadata, "type": kind, "data": data}


def _plan_certificates(wanted: Wanted, present: Present, now: datetime, steps: Steps) -> None:
    authority = present.get(authority_secret(wanted))
    leaf = present.get(leaf_secret(wanted))
    for ref, found in ((authority_secret(wanted), authority), (leaf_secret(wanted), leaf)):
        if found is not None and not is_controlled_by(found, wanted.uid):
            steps.troubles.append(_taken(ref))
            return
    if authority is None or certificates.authority_is_due(authority, now):
        note = Note("CertificateIssued", "a new authority is made", authority_secret(wanted).name)
        steps.actions.append(Certify(Renewal.AUTHORITY, authority, note))
        steps.within(0)  # the leaf follows once the authority is stored
    elif certificates.leaf_is_due(leaf, authority, now):
        note = Note("CertificateIssued", "a new certificate is signed", leaf_secret(wanted).name)
        steps.actions.append(Certify(Renewal.LEAF, leaf, note))


def _taken(ref: Ref) -> Note:
    message = f"{ref} exists and is not ours; delete or rename it"
    return Note("NameTaken", message, str(ref), is_warning=True)


def _with_digest(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    notes = {**(metadata.get("annotations") or {}), APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": notes}}
