"""Fetches image URLs for strangers without lending them our place in the network.

The guard sits where connections are made: `_GuardedBackend` resolves the name itself, refuses
unless every address it gets is a public one, and connects to exactly those addresses. So a name
that changes its answer between check and use gains nothing, redirects pass the same gate, and TLS
still verifies the name. Nothing of the environment (proxies, credentials) is used.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final, TypeAlias

import httpcore
import httpx

from epd_gateway.errors import GatewayError, ImageNotFetched, ImageUrlRefused, InvalidImage
from epd_gateway.settings import MediaLimits

IpAddress: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[IpAddress]]]

_MAX_URL_CHARS: Final = 8192
_MAX_ADDRESSES: Final = 4  # tried per name
_RESOLVER_THREADS: Final = 8
_KEEPALIVE_S: Final = 15.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = (
    (b"accept", b"image/png, image/jpeg, image/webp, image/gif"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"epd-gateway"),
)

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
# What `is_global` of Python 3.11 lets pass and must not be reached.
_ALSO_REFUSED: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's host agent: a public address that answers inside every VM
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service is 192.0.0.192
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # Teredo and other addresses that embed one
        "2002::/16",  # 6to4, which embeds an IPv4 address
        "3fff::/20",  # documentation
    )
)


def is_public(address: IpAddress) -> bool:
    """Return whether `address` is one of the open internet, and nobody's inside."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _ALSO_REFUSED)


class SystemResolver:
    """Resolves names with the system's resolver, in threads of its own.

    A name server that never answers can hold these threads, and nothing else of the process.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Sequence[IpAddress]:
        """Return the addresses of `host`, best first.

        Raises:
            OSError: The name has none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _addresses, host, port)
        return [ip_address(text) for text in dict.fromkeys(found)]


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class _Forbidden(Exception):
    """A name leads where no image may be fetched from."""


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to names whose every address is allowed; see the module's docstring."""

    def __init__(self, resolve: Resolve, is_allowed: Callable[[IpAddress], bool]) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to `host`, if all its addresses are allowed."""
        addresses = await self._resolve(host, port)
        if not all(self._is_allowed(address) for address in addresses):
            raise _Forbidden
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                return await self._backend.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class ByteBudget:
    """How much the images of one request may still weigh together."""

    __slots__ = ("_left", "_total")

    def __init__(self, total: int) -> None:
        self._left = self._total = total

    def spend(self, size: int, param: str) -> None:
        """Take `size` bytes off.

        Raises:
            InvalidImage: There were not that many left.
        """
        self._left -= size
        if self._left < 0:
            raise InvalidImage(
                f"the fetched images are over {self._total} bytes together", param=param
            )


class ImageFetcher:
    """Reads image URLs.

    Attributes:
        limits: What may be read, and for how long.
    """

    def __init__(
        self,
        limits: MediaLimits,
        resolve: Resolve | None = None,
        is_allowed: Callable[[IpAddress], bool] | None = None,
    ) -> None:
        """Make the connection pool; nothing is connected yet.

        Args:
            limits: See `MediaLimits`.
            resolve: Finds the addresses of a name; the system's resolver by default.
            is_allowed: Which addresses may be connected to; public ones by default, or all with
                `limits.allow_private`.
        """
        self.limits = limits
        self._slots = asyncio.Semaphore(limits.max_concurrent_fetches)
        if is_allowed is None:
            is_allowed = (lambda _: True) if limits.allow_private else is_public
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=limits.max_concurrent_fetches,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=_GuardedBackend(resolve or SystemResolver(), is_allowed),
        )

    async def close(self) -> None:
        """Close the connections kept alive."""
        await self._pool.aclose()

    async def fetch(self, url: str, param: str, budget: ByteBudget) -> bytes:
        """Return what `url` holds, at most `max_image_bytes` of it.

        Args:
            url: An http or https URL.
            param: Where the request names it, for errors.
            budget: What all images of the request may weigh.

        Raises:
            ImageUrlRefused: Policy forbids this URL or one it redirects to.
            ImageNotFetched: It cannot be read, in time or at all.
            InvalidImage: It is too large, alone or with the others.
        """
        timeout_s = self.limits.fetch_timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._follow(url, param, budget)
        except TimeoutError:
            reason = f"the image URL did not answer in full within {timeout_s:g} s"
        except _Forbidden:
            raise ImageUrlRefused(
                "the image URL leads to an address that may not be fetched from", param=param
            ) from None
        except (OSError, UnicodeError):
            reason = "the image URL's host cannot be found"
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.ConnectionNotAvailable,
        ) as error:
            reason = f"the image URL cannot be read ({type(error).__name__})"
        raise ImageNotFetched(reason, param=param) from None

    async def _follow(self, text: str, param: str, budget: ByteBudget) -> bytes:
        url = self._checked(text, param)
        for _ in range(self.limits.max_redirects + 1):
            answer = await self._get(url, param, budget)
            if isinstance(answer, bytes):
                return answer
            url = self._checked(answer, param, base=url)
        raise ImageNotFetched(
            f"the image URL redirects more than {self.limits.max_redirects} times", param=param
        )

    def _checked(self, text: str, param: str, base: httpx.URL | None = None) -> httpx.URL:
        """Return `text`, perhaps relative to `base`, if it is a URL that policy allows."""
        limits = self.limits
        if len(text) > _MAX_URL_CHARS:
            raise ImageUrlRefused(f"the image URL is over {_MAX_URL_CHARS} characters", param=param)
        try:
            url = httpx.URL(text) if base is None else base.join(text)
        except httpx.InvalidURL:
            raise ImageUrlRefused("the image URL is malformed", param=param) from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ImageUrlRefused("only http, https and data URLs are fetched", param=param)
        if url.userinfo:
            raise ImageUrlRefused("an image URL must not hold a user or password", param=param)
        port = url.port or (443 if url.scheme == "https" else 80)
        if port not in limits.allowed_ports:
            raise ImageUrlRefused(f"image URLs with port {port} are not fetched", param=param)
        host = url.host.rstrip(".").lower()
        allowed = limits.allowed_domains
        if allowed and not any(host == name or host.endswith(f".{name}") for name in allowed):
            raise ImageUrlRefused("the image URL's host is not on the allowed list", param=param)
        return url

    async def _get(self, url: httpx.URL, param: str, budget: ByteBudget) -> bytes | str:
        """Return the content of `url`, or where it redirects to."""
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(
                self._pool.stream("GET", target, headers=[(b"host", url.netloc), *_HEADERS])
            )
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return headers[b"location"].decode("latin-1")
            if response.status != 200:
                raise ImageNotFetched(f"the image URL answered {response.status}", param=param)
            length = headers.get(b"content-length", b"0")
            if int(length) > self.limits.max_image_bytes:
                raise self._too_large(param)
            parts = []
            size = 0
            async for part in response.aiter_stream():
                size += len(part)
                if size > self.limits.max_image_bytes:
                    raise self._too_large(param)
                budget.spend(len(part), param)
                parts.append(part)
        return b"".join(parts)

    def _too_large(self, param: str) -> GatewayError:
        return InvalidImage(f"the image is over {self.limits.max_image_bytes} bytes", param=param)
