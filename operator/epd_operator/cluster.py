"""The API server behind `ports.Cluster`: `kubernetes.aio` for reaching it, JSON for the objects."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from epd_operator.objects import MANAGER, Kind, Manifest, Ref
from epd_operator.ports import (
    AlreadyExistsError,
    ClusterCallError,
    ConflictError,
    GoneError,
    RefusedError,
    UnavailableError,
)

log = logging.getLogger(__name__)

CALL_TIMEOUT_S: Final = 10.0
"""One call, connecting included. A frozen API server costs a pass so much, and no more."""

PAGE_OBJECTS: Final = 500
"""Objects in one answer of a list."""

_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_RESULTS: Final[Mapping[type[ClusterCallError], str]] = {
    GoneError: "gone",
    ConflictError: "conflict",
    AlreadyExistsError: "conflict",
    RefusedError: "refused",
}


class ServerNotFoundError(Exception):
    """There is no API server to work with; the message is for the user."""


async def connect(kubeconfig: Path | None) -> client.ApiClient:
    """Return a client for the server of a kubeconfig file, else for the one we run in.

    Raises:
        ServerNotFoundError: The file is unusable, or this is no pod.
    """
    if kubeconfig is not None and not kubeconfig.is_file():  # noqa: ASYNC240 - nothing runs yet
        raise ServerNotFoundError(
            f"no kubeconfig {kubeconfig}; set KUBECONFIG to one that is there"
        )
    settings = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=settings
            )
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=settings
            )
    except config.ConfigException as error:
        hint = "set KUBECONFIG, or run in a pod" if kubeconfig is None else f"see {kubeconfig}"
        raise ServerNotFoundError(f"no API server to work with: {error}; {hint}") from None
    settings.retries = None
    api = client.ApiClient(settings)
    api.user_agent = MANAGER
    return api


@dataclass(frozen=True, slots=True)
class Credentials:
    """The way to an API server, for another client than ours."""

    server: str
    token: str | None
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    insecure: bool


async def credentials_of(api: client.ApiClient) -> Credentials:
    """Return the way to the server of `api`, with the token as it is now."""
    settings = api.configuration
    header = await settings.get_api_key_with_prefix("BearerToken", alias="authorization")
    return Credentials(
        server=settings.host,
        token=header.split(maxsplit=1)[-1] if header else None,
        ca_file=settings.ssl_ca_cert,
        certificate_file=settings.cert_file,
        key_file=settings.key_file,
        insecure=not settings.verify_ssl,
    )


class KubernetesCluster:
    """A real API server.

    Attributes:
        calls: How many calls there were, by verb and result as `epd.telemetry` has them.
    """

    def __init__(self, api: client.ApiClient, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Use a client that `connect` returned; it is closed with this object."""
        self._api = api
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self.calls: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, ref: Ref) -> Manifest | None:
        """Return the object, None if it does not exist."""
        try:
            return await self._call("GET", _path(ref.kind, ref.namespace, ref.name))
        except GoneError:
            return None

    async def list(
        self, kind: Kind, namespace: str, labels: Mapping[str, str]
    ) -> Sequence[Manifest]:
        """Return the objects that have all of these labels, by name."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        query: list[tuple[str, Any]] = [("limit", PAGE_OBJECTS)]
        query += [("labelSelector", selector)] if selector else []
        found: list[Manifest] = []
        more = ""
        while True:
            page = await self._call(
                "GET", _path(kind, namespace), query=[*query, *([("continue", more)] * bool(more))]
            )
            # The items of a list do not say what they are.
            found += ({**kind.type_meta, **item} for item in page["items"])
            more = page["metadata"].get("continue") or ""
            if not more:
                return sorted(found, key=_namespace_and_name)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object and return it; `AlreadyExistsError` if its name is taken."""
        ref = Ref.to(manifest)
        return await self._call(
            "POST", _path(ref.kind, ref.namespace), manifest, query=[("fieldManager", MANAGER)]
        )

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the object say what the manifest says, and drop what an earlier one said."""
        ref = Ref.to(manifest)
        return await self._call(
            "PATCH",
            _path(ref.kind, ref.namespace, ref.name),
            manifest,
            query=[("fieldManager", MANAGER), ("force", "true")],
            content_type=_APPLY,
        )

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Manifest:
        """Merge `body` into the object; None as a value removes a field."""
        path = _path(ref.kind, ref.namespace, ref.name)
        return await self._call(
            "PATCH",
            f"{path}/{subresource}" if subresource else path,
            body,
            query=[("fieldManager", MANAGER)],
            content_type=_MERGE,
        )

    async def delete(self, ref: Ref, uid: str) -> None:
        """Delete the object with this uid."""
        await self._call(
            "DELETE",
            _path(ref.kind, ref.namespace, ref.name),
            {"propagationPolicy": "Background", "preconditions": {"uid": uid}},
        )

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Sequence[tuple[str, Any]] = (),
        content_type: str = "application/json",
    ) -> Manifest:
        """Make a call and count it."""
        result = "unavailable"
        try:
            answer = await self._ask(method, path, body, query, content_type)
            result = "ok"
        except ClusterCallError as error:
            result = _RESULTS.get(type(error), result)
            raise
        finally:
            self.calls[method.lower(), result] += 1
        return answer

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Sequence[tuple[str, Any]],
        content_type: str,
    ) -> Manifest:
        what = f"{method} {path}"
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list(query),
                header_params={"Content-Type": content_type, "Accept": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*request, _request_timeout=self._timeout)
            content = await response.read()  # type: ignore[no-untyped-call]
        except ApiException as error:
            raise _refusal(what, error.status, str(error.body or error.reason)) from None
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            text = str(error) or type(error).__name__
            raise UnavailableError(f"{what}: {text}") from None
        if response.status >= 300:
            raise _refusal(what, response.status, content.decode(errors="replace"))
        try:
            answer = orjson.loads(content)
        except ValueError:
            raise UnavailableError(f"{what}: the answer is not JSON") from None
        return dict(answer)


def _namespace_and_name(item: Manifest) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _path(kind: Kind, namespace: str, name: str = "") -> str:
    group = "api" if "/" not in kind.api_version else "apis"
    where = f"namespaces/{namespace}/" if namespace else ""
    path = f"/{group}/{kind.api_version}/{where}{kind.plural}"
    return f"{path}/{name}" if name else path


def _refusal(what: str, status: int | None, body: str) -> ClusterCallError:
    """Return the error for an answer that is not the wished one."""
    reason, message = _status_object(body)
    text = f"{what}: {status} {message or reason}"
    if status == 404:
        return GoneError(text)
    if status == 409:
        return (AlreadyExistsError if reason == "AlreadyExists" else ConflictError)(text)
    if status == 403:
        quota = "exceeded quota" in message
        return RefusedError("QuotaExceeded" if quota else "Forbidden", message or text)
    if status in (400, 413, 415, 422):
        return RefusedError("Invalid", message or text)
    return UnavailableError(text)


def _status_object(body: str) -> tuple[str, str]:
    """Return reason and message of a `metav1.Status`; what is none is its own message."""
    try:
        status = json.loads(body)
        return str(status.get("reason") or ""), str(status.get("message") or "")
    except (ValueError, AttributeError):
        return "", body.strip()[:200]
