"""Names the Secrets of a cluster's mutual TLS, and how its pods see them.

The authority's key stays in a Secret that no pod mounts.
"""

from typing import Final

from epd_operator.objects import Kind, Manifest, Ref
from epd_operator.wanted import Wanted

TLS_PATH: Final = "/etc/epd/tls"
_VOLUME: Final = "tls"


def authority_secret(wanted: Wanted) -> Ref:
    """Return the Secret with the authority's certificate and key."""
    return Ref(Kind.SECRET, wanted.key.namespace, wanted.name("ca"))


def leaf_secret(wanted: Wanted) -> Ref:
    """Return the Secret with the certificate and key that gateways and workers show."""
    return Ref(Kind.SECRET, wanted.key.namespace, wanted.name("tls"))


def tls_volume(wanted: Wanted) -> Manifest:
    """Return the volume of the certificates."""
    return {"name": _VOLUME, "secret": {"secretName": leaf_secret(wanted).name}}


def tls_mount() -> Manifest:
    """Return the mount of `tls_volume`."""
    return {"name": _VOLUME, "mountPath": TLS_PATH, "readOnly": True}
