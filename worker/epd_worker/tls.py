"""Mutual TLS between gateways and workers: the server's credentials from three PEM files."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from epd_worker.engine.settings import SettingsError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """This worker's certificate and key, and the authority that signs the gateways' own."""

    certificate: Path
    key: Path
    authority: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Read the files, now and whenever they are others; clients must show a certificate.

        Raises:
            SettingsError: They are unusable. Later, what was read last stays.
        """
        seen = self._identities()
        first = self._configuration()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # Asked at every connection, in a thread of gRPC's.
            nonlocal seen
            try:
                present = self._identities()
                if present == seen:
                    return None
                seen = present
                configuration = self._configuration()
            except SettingsError as error:
                log.warning("%s; the last good certificate stays", error)
                return None
            log.info("TLS: %s was replaced", self.certificate)
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            first,
            fetch,  # type: ignore[arg-type]  # None: as before
            require_client_authentication=True,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
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
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=authority
        )

    def _identities(self) -> list[tuple[int, int]]:
        """Tell one version of the files from the next: Kubernetes swaps a link to new ones."""
        try:
            found = [path.stat() for path in (self.key, self.certificate, self.authority)]
        except OSError as error:
            raise SettingsError(f"TLS: {error.filename}: {error.strerror}") from None
        return [(each.st_ino, each.st_mtime_ns) for each in found]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"TLS: {path}: {error.strerror}") from None
