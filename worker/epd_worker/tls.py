"""Mutual TLS between gateways and workers: the server's credentials from three PEM files."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from epd_worker.engine.settings import SettingsError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """This worker's certificate and key, and the authority that signs the gateways' own."""

    certificate: Path
    key: Path
    authority: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Read the files; clients must show a certificate. `SettingsError` for unusable files."""
        key, certificate, authority = map(_read, (self.key, self.certificate, self.authority))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, ValueError):
            raise SettingsError(
                f"TLS: {self.certificate} and {self.key} are no PEM certificate and its key"
            ) from None
        try:
            context.load_verify_locations(self.authority)
        except ssl.SSLError:
            raise SettingsError(f"TLS: {self.authority} holds no PEM certificate") from None
        return grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=authority, require_client_auth=True
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"TLS: {path}: {error.strerror}") from None
