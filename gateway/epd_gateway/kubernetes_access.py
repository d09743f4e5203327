"""How to reach the API server: as a pod's ServiceAccount, or by a kubeconfig file.

Every file is read again for each new connection, and the token for each request: tokens of
ServiceAccounts live an hour, and authorities are exchanged, too.
"""

import base64
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import yaml

from epd_gateway.settings import SettingsError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST: Final = "KUBERNETES_SERVICE_HOST"
_PORT: Final = "KUBERNETES_SERVICE_PORT"
_KUBECONFIG: Final = "KUBECONFIG"
_EVERYBODYS_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """One way to the API server, as the files say now.

    Attributes:
        url: Where it is.
        tls: Whom to trust and what to show; None speaks plain HTTP.
        token: Returns the bearer token, as it is at this moment; None: there is none.
        namespace: The namespace that the credentials belong to.
    """

    url: str
    tls: ssl.SSLContext | None
    token: Callable[[], str] | None
    namespace: str

    def client(self, timeout_s: float) -> httpx.AsyncClient:
        """Return a client with no open connection yet."""
        return httpx.AsyncClient(
            base_url=self.url,
            verify=self.tls if self.tls is not None else True,
            timeout=timeout_s,
            headers={"user-agent": "epd-gateway", "accept-encoding": "identity"},
            trust_env=False,
        )

    def authorization(self) -> dict[str, str]:
        """Return the header that says who asks.

        Raises:
            SettingsError: The token cannot be read.
        """
        return {} if self.token is None else {"authorization": f"Bearer {self.token()}"}


class ApiAccess(Protocol):
    """Where the API server's address and credentials come from."""

    def open(self) -> ApiServer:
        """Read the files.

        Raises:
            SettingsError: One is missing or malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """What Kubernetes puts into a pod.

    Attributes:
        host: Address of the API server.
        port: Its port.
        folder: Where token, authority and namespace are.
    """

    host: str
    port: str
    folder: Path = SERVICE_ACCOUNT

    def open(self) -> ApiServer:
        """Read the files.

        Raises:
            SettingsError: One is missing or malformed.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return ApiServer(
            f"https://{host}:{self.port}",
            _tls(self.folder / "ca.crt"),
            lambda: _text(self.folder / "token"),
            _text(self.folder / "namespace"),
        )


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context of a kubeconfig file: token, token file or client certificate.

    Attributes:
        path: The file.
    """

    path: Path

    def open(self) -> ApiServer:
        """Read the file, and those it names.

        Raises:
            SettingsError: It is missing or malformed, or asks for a login that we do not know.
        """
        config = self._load()
        context = self._named(config, "contexts", "context", config.get("current-context"))
        cluster = self._named(config, "clusters", "cluster", context.get("cluster"))
        user = (
            self._named(config, "users", "user", context.get("user")) if "user" in context else {}
        )
        unknown = {"exec", "auth-provider", "username", "password"} & user.keys()
        if unknown:
            raise self._problem(f"users: {min(unknown)} is not supported here; use a token")
        url = cluster.get("server")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise self._problem("clusters: server is not a URL")
        tls = self._tls(cluster, user) if url.startswith("https://") else None
        namespace = context.get("namespace") or _EVERYBODYS_NAMESPACE
        return ApiServer(url.rstrip("/"), tls, self._token(user), str(namespace))

    def _load(self) -> dict[str, Any]:
        try:
            config = yaml.safe_load(_text(self.path))
        except yaml.YAMLError as error:
            raise self._problem(" ".join(str(error).split())) from None
        if not isinstance(config, dict):
            raise self._problem("no kubeconfig")
        return config

    def _named(self, config: dict[str, Any], kind: str, inner: str, name: Any) -> dict[str, Any]:
        for item in config.get(kind) or ():
            if isinstance(item, dict) and item.get("name") == name and inner in item:
                return item[inner] or {}
        raise self._problem(f"{kind}: none is called {name!r}")

    def _token(self, user: dict[str, Any]) -> Callable[[], str] | None:
        if (file := user.get("tokenFile")) is not None:
            return lambda: _text(self.path.parent / file)
        if (token := user.get("token")) is not None:
            return lambda: str(token)
        return None

    def _tls(self, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
        with tempfile.TemporaryDirectory() as folder:
            certificate = self._file(user, "client-certificate", folder)
            key = self._file(user, "client-key", folder)
            context = _tls(self._file(cluster, "certificate-authority", folder))
            if cluster.get("insecure-skip-tls-verify"):
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if certificate is not None:
                try:
                    context.load_cert_chain(certificate, key)
                except (OSError, ssl.SSLError) as error:
                    raise self._problem(f"users: client-certificate: {error}") from None
        return context

    def _file(self, holder: dict[str, Any], key: str, folder: str) -> Path | None:
        """Return the file that `key` names, or one in `folder` with the data that it holds."""
        if (data := holder.get(f"{key}-data")) is not None:
            path = Path(folder, key)
            try:
                path.write_bytes(base64.b64decode(data, validate=True))
            except (TypeError, ValueError):
                raise self._problem(f"{key}-data is not base64") from None
            return path
        return self.path.parent / holder[key] if holder.get(key) else None

    def _problem(self, what: str) -> SettingsError:
        return SettingsError(f"kubeconfig {self.path}: {what}")


def find_access(environment: Mapping[str, str]) -> ApiAccess:
    """Return the way to the API server: `KUBECONFIG` where it is set, else the pod's own account.

    Raises:
        SettingsError: There is neither.
    """
    if listed := environment.get(_KUBECONFIG):
        return Kubeconfig(Path(listed.split(":", maxsplit=1)[0]))
    if host := environment.get(_HOST):
        return ServiceAccount(host, environment.get(_PORT, "443"))
    raise SettingsError(
        f"--kubernetes-cluster: no API server; set {_KUBECONFIG}, or run in a pod with a "
        "ServiceAccount"
    )


def _tls(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"authority of the API server {authority}: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
