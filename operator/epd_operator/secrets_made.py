"""The Secrets whose content the operator makes up: certificates, and perhaps an API key."""

import base64
import secrets

from epd.vocabulary import Component
from epd_operator.actions import Secrecy
from epd_operator.manifests_tls import authority_secret, leaf_secret
from epd_operator.objects import Kind, Manifest, Ref
from epd_operator.wanted import Wanted


def made_secrets(wanted: Wanted) -> list[Secrecy]:
    """Return what the operator makes for this cluster, in the order in which it is made."""
    made = [Secrecy.AUTHORITY, Secrecy.LEAF]
    return [*made, Secrecy.API_KEY] if wanted.makes_api_key else made


def secret_ref(wanted: Wanted, what: Secrecy) -> Ref:
    """Return the Secret that holds it."""
    match what:
        case Secrecy.AUTHORITY:
            return authority_secret(wanted)
        case Secrecy.LEAF:
            return leaf_secret(wanted)
        case Secrecy.API_KEY:
            return Ref(Kind.SECRET, wanted.key.namespace, wanted.name("api-keys"))


def secret_manifest(wanted: Wanted, what: Secrecy, data: Manifest, version: str) -> Manifest:
    """Return a Secret with this data; `version` is the one it must still have, empty for none."""
    of = Component.GATEWAY if what is Secrecy.API_KEY else Component.WORKER
    metadata = wanted.metadata(secret_ref(wanted, what).name, of)
    if version:
        metadata["resourceVersion"] = version
    kind = "kubernetes.io/tls" if what is Secrecy.LEAF else "Opaque"
    return {**Kind.SECRET.type_meta, "metadata": metadata, "type": kind, "data": data}


def api_key_data(wanted: Wanted) -> Manifest:
    """Return a new API key."""
    key = f"sk-epd-{secrets.token_urlsafe(32)}\n"
    name = wanted.api_keys.key if wanted.api_keys is not None else "keys"
    return {name: base64.b64encode(key.encode()).decode()}
