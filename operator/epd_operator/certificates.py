"""The certificates of a cluster: an authority of its own, and one leaf for gateways and workers.

Gateways and workers show the same leaf to each other: it names no address, for pods come and go,
but one constant name, and only this cluster's authority signs it. So a certificate of another
cluster, or of anybody else, is worth nothing here.

Both are replaced before they expire. A new authority stands beside the old one in what pods trust,
and signs nothing before every pod must have read it: no pod ever meets a certificate it cannot
check. Times are generous because a renewal that failed is tried again at every pass.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from epd.vocabulary import WORKER_TLS_NAME
from epd_operator.objects import Manifest

AUTHORITY_LIFE: Final = timedelta(days=3650)
AUTHORITY_RENEWAL: Final = timedelta(days=365)
"""So long before its end an authority gets a successor."""

LEAF_LIFE: Final = timedelta(days=90)
LEAF_RENEWAL: Final = timedelta(days=30)

TRUST_SPREADS: Final = timedelta(hours=1)
"""After so long every pod has read the authorities anew: kubelets bring them within two minutes."""

SKEW: Final = timedelta(minutes=5)
"""Certificates are valid from a little earlier: clocks of nodes differ."""

AUTHORITY_KEY: Final = "ca.key"
AUTHORITIES: Final = "ca.crt"
LEAF: Final = "tls.crt"
LEAF_KEY: Final = "tls.key"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def authority_is_due(secret: Mapping[str, Any] | None, now: datetime) -> bool:
    """Tell whether the authority's Secret must be written: none, unreadable, or soon to expire."""
    pair = _authority(secret)
    return pair is None or now >= pair.certificate.not_valid_after_utc - AUTHORITY_RENEWAL


def leaf_is_due(
    secret: Mapping[str, Any] | None, authority: Mapping[str, Any], now: datetime
) -> bool:
    """Tell whether the leaf's Secret must be written.

    It must be where there is none, where it is unreadable, soon expires or was signed by an older
    authority, and where pods are not yet told to trust all authorities.
    """
    held = _data(secret)
    leaf = _first(held.get(LEAF, b""))
    if leaf is None or not held.get(LEAF_KEY):
        return True
    signer = _signer(authority, now)
    return (
        now >= leaf.not_valid_after_utc - LEAF_RENEWAL
        or held.get(AUTHORITIES) != _data(authority)[AUTHORITIES]
        or (signer is not None and not _signed_by(leaf, signer.certificate))
    )


def expiries(
    authority: Mapping[str, Any] | None, leaf: Mapping[str, Any] | None
) -> dict[str, datetime]:
    """Return when the certificates in a cluster's Secrets end: `authority`, `leaf`."""
    found = {
        "authority": _first(_data(authority).get(AUTHORITIES, b"")),
        "leaf": _first(_data(leaf).get(LEAF, b"")),
    }
    return {name: each.not_valid_after_utc for name, each in found.items() if each is not None}


def new_authority(secret: Mapping[str, Any] | None, name: str, now: datetime) -> Manifest:
    """Return the data of an authority's Secret: a new one first, those still valid after it."""
    pair = _make_authority(name, now)
    held = _data(secret)
    still_valid = [
        certificate
        for certificate in _certificates(held.get(AUTHORITIES, b""))
        if certificate.not_valid_after_utc > now
    ]
    keys = [pair.key, *_keys(held.get(AUTHORITY_KEY, b""))[: len(still_valid)]]
    return _encoded(
        {
            AUTHORITIES: b"".join(map(_pem, [pair.certificate, *still_valid])),
            AUTHORITY_KEY: b"".join(map(_key_pem, keys)),
        }
    )


def new_leaf(authority: Mapping[str, Any], now: datetime) -> Manifest:
    """Return the data of a leaf's Secret.

    Raises:
        ValueError: The authority's Secret is unreadable.
    """
    signer = _signer(authority, now)
    if signer is None:
        raise ValueError("the authority's Secret is unreadable")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + LEAF_LIFE, signer.certificate.not_valid_after_utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_subject(WORKER_TLS_NAME))
        .issuer_name(signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(WORKER_TLS_NAME)]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
        .sign(signer.key, hashes.SHA256())
    )
    return _encoded(
        {
            AUTHORITIES: _data(authority)[AUTHORITIES],
            LEAF: _pem(certificate),
            LEAF_KEY: _key_pem(key),
        }
    )


def _make_authority(name: str, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    # Successors have names of their own: OpenSSL finds the issuer of a leaf by name first.
    subject = _subject(f"{name} {now:%Y-%m-%d %H:%M:%S}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _signer(authority: Mapping[str, Any], now: datetime) -> Pair | None:
    """Return the newest authority that every pod knows; the only one where there is one."""
    held = _data(authority)
    certificates = _certificates(held.get(AUTHORITIES, b""))
    pairs = [
        Pair(certificate, key)
        for certificate, key in zip(certificates, _keys(held.get(AUTHORITY_KEY, b"")), strict=False)
        if certificate.public_key() == key.public_key()
    ]
    known = [
        pair
        for pair in pairs
        if now >= pair.certificate.not_valid_before_utc + SKEW + TRUST_SPREADS
    ]
    return next(iter(known or pairs[-1:]), None)


def _authority(secret: Mapping[str, Any] | None) -> Pair | None:
    held = _data(secret)
    certificates = _certificates(held.get(AUTHORITIES, b""))
    keys = _keys(held.get(AUTHORITY_KEY, b""))
    if not certificates or not keys or certificates[0].public_key() != keys[0].public_key():
        return None
    return Pair(certificates[0], keys[0])


def _signed_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    return leaf.issuer == authority.subject


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _data(secret: Mapping[str, Any] | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, text in ((secret or {}).get("data") or {}).items():
        try:
            found[name] = base64.b64decode(text)
        except ValueError:
            continue
    return found


def _encoded(data: Mapping[str, bytes]) -> Manifest:
    return {name: base64.b64encode(value).decode() for name, value in data.items()}


def _certificates(text: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text) if text.strip() else []
    except ValueError:
        return []


def _first(text: bytes) -> x509.Certificate | None:
    return next(iter(_certificates(text)), None)


def _keys(text: bytes) -> list[ec.EllipticCurvePrivateKey]:
    end = b"-----END PRIVATE KEY-----"
    keys: list[ec.EllipticCurvePrivateKey] = []
    for block in text.split(end)[:-1]:
        try:
            key = serialization.load_pem_private_key(block + end, password=None)
        except ValueError:
            return []
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            return []
        keys.append(key)
    return keys


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
