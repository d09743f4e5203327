"""Who may talk to an API server of ours: keys, certificates, tokens and kubeconfig files."""

import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR: Final = timedelta(days=30)
# A clock that is a little behind must not find a certificate of the future.
CLOCK_SKEW: Final = timedelta(minutes=5)

ADMIN: Final = ("admin", "system:masters")
CONTROLLER_MANAGER: Final = ("system:kube-controller-manager", "")
SCHEDULER: Final = ("system:kube-scheduler", "")


def write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a private key, write it to `path` and, as `.pub` beside it, its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return key


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority; its own certificate is `NAME.crt` in `folder`."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    folder: Path

    @classmethod
    def create(cls, folder: Path, name: str) -> "Authority":
        """Make one, and write its key and certificate."""
        authority = cls(_name(name), write_key(folder / f"{name}.key"), folder)
        usage = _key_usage(signs_certificates=True)
        builder = authority._builder(authority.name, authority.key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        authority._sign(builder.add_extension(usage, True), folder / f"{name}.crt")
        return authority

    def issue(
        self, file: str, common_name: str, organization: str = "", hosts: tuple[str, ...] = ()
    ) -> None:
        """Write `file`.key and `file`.crt: for a server where `hosts` are given, else a client."""
        key = write_key(self.folder / f"{file}.key")
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(_name(common_name, organization), key)
        builder = builder.add_extension(_key_usage(signs_certificates=False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        if hosts:
            names = x509.SubjectAlternativeName([_alternative_name(host) for host in hosts])
            builder = builder.add_extension(names, False)
        self._sign(builder, self.folder / f"{file}.crt")

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + VALID_FOR)
        )

    def _sign(self, builder: x509.CertificateBuilder, path: Path) -> None:
        certificate = builder.sign(self.key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _name(common_name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class TokenFile:
    """The API server's static tokens: one random token per user, made on demand."""

    def __init__(self, path: Path) -> None:
        """Start an empty file at `path`."""
        self.path = path
        path.touch(0o600)

    def token_for(self, user: tuple[str, str]) -> str:
        """Add a user, given as name and group, and return the token. Before the server starts."""
        name, group = user
        token = secrets.token_hex(16)
        with self.path.open("a") as file:
            file.write(f'{token},{name},{name},"{group}"\n')
        return token


def kubeconfig(url: str, ca: bytes, token: str, namespace: str = "default") -> dict[str, Any]:
    """Return a kubeconfig for one user of one server; `ca` is the PEM that vouches for it."""
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(ca).decode()}
    context = {"cluster": "epd", "user": "epd", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "epd", "cluster": cluster}],
        "contexts": [{"name": "epd", "context": context}],
        "current-context": "epd",
        "users": [{"name": "epd", "user": {"token": token}}],
    }


def write_kubeconfig(path: Path, config: dict[str, Any]) -> None:
    """Write a kubeconfig that only its owner can read."""
    path.touch(0o600)
    path.write_text(yaml.safe_dump(config))
