"""Images behind URLs: the guard against reaching inside, and the limits on what is read."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Any

import PIL.Image
import pytest

from epd_gateway.errors import GatewayError, ImageNotFetched, ImageUrlRefused, InvalidImage
from epd_gateway.http import HttpServer, Request, render_headers
from epd_gateway.media import ImageReference, MediaResolver
from epd_gateway.media_fetch import (
    ByteBudget,
    ImageFetcher,
    IpAddress,
    SystemResolver,
    is_public,
)
from epd_gateway.settings import MediaLimits

PARAM = "messages[0].content[1].image_url.url"
OPEN = "127.0.0.1"
CLOSED = "127.0.0.2"  # as good as a private address: the fetchers below refuse it
Fetch = Callable[..., Awaitable[bytes]]


def picture() -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (5, 4)).save(out, "PNG")
    return out.getvalue()


class Origin:
    """A web server of the open internet, as far as the fetcher can tell."""

    def __init__(self) -> None:
        self.server = HttpServer(self.handle)
        self.hosts: list[str] = []
        self.never = asyncio.Event()
        self.port = 0

    async def handle(self, request: Request) -> None:
        self.hosts.append(request.headers[b"host"])
        response, path = request.response, request.path
        if path == "/image":
            response.send(200, render_headers([("content-type", "text/plain")]), picture())
        elif path == "/to":
            response.send(302, render_headers([("location", request.query)]))
        elif path == "/loop":
            response.send(307, render_headers([("location", "/loop")]))
        elif path == "/endless":
            response.start_stream(200, b"")
            while not response.finished:
                response.write(bytes(10_000))
                await asyncio.sleep(0)
        elif path == "/hang":
            await self.never.wait()
        elif path == "/stall":
            response.start_stream(200, b"")
            response.write(b"some")
            await self.never.wait()
        elif path == "/half":
            response.start_stream(200, b"")
            response.write(b"some")
            response.abort()
        else:
            response.send(int(path[1:]))

    def url(self, path: str, host: str = OPEN) -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    origin = Origin()
    await origin.server.start("0.0.0.0", 0)
    origin.port = origin.server.port
    yield origin
    await origin.server.stop(0)


class Names:
    """A name server whose answers a test decides, one after the other."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[IpAddress]:
        self.asked.append(host)
        if host not in self.answers:
            return [ip_address(host)]
        answers = self.answers[host]
        return [ip_address(text) for text in (answers.pop(0) if len(answers) > 1 else answers[0])]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def fetch(origin: Origin, names: Names) -> AsyncIterator[Fetch]:
    fetchers = []

    async def fetch(url: str, **limits: Any) -> bytes:
        settings = MediaLimits(**{"allowed_ports": (origin.port, 80, 443), **limits})
        fetcher = ImageFetcher(settings, names, lambda address: str(address) == OPEN)
        fetchers.append(fetcher)
        return await fetcher.fetch(url, PARAM, ByteBudget(settings.max_fetched_bytes))

    yield fetch
    for fetcher in fetchers:
        await fetcher.close()


async def refusal(fetching: Awaitable[bytes], kind: type[GatewayError]) -> str:
    with pytest.raises(kind) as caught:
        await fetching
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.param) == (400, PARAM)
    return caught.value.message


async def test_an_image_is_fetched_whatever_type_the_server_claims(
    origin: Origin, fetch: Fetch
) -> None:
    assert await fetch(origin.url("/image")) == picture()
    assert origin.hosts == [f"{OPEN}:{origin.port}"]


async def test_a_fetched_image_is_resolved_like_any_other(origin: Origin) -> None:
    resolver = MediaResolver(MediaLimits(allow_private=True, allowed_ports=(origin.port,)))
    [image] = await resolver.resolve([ImageReference(origin.url("/image"), PARAM)])
    assert (image.data, image.media_type, image.width) == (picture(), "image/png", 5)
    await resolver.close()


async def test_redirects_are_followed_as_far_as_allowed(origin: Origin, fetch: Fetch) -> None:
    path = "/image"
    for _ in range(3):
        path = f"/to?{path}"
    assert await fetch(origin.url(path)) == picture()
    message = await refusal(fetch(origin.url(f"/to?{path}")), ImageNotFetched)
    assert message == "the image URL redirects more than 3 times"
    assert "more than 0" in await refusal(
        fetch(origin.url("/to?/image"), max_redirects=0), ImageNotFetched
    )
    await refusal(fetch(origin.url("/loop")), ImageNotFetched)


async def test_a_private_address_is_refused(origin: Origin, fetch: Fetch) -> None:
    message = await refusal(fetch(origin.url("/image", CLOSED)), ImageUrlRefused)
    assert message == "the image URL leads to an address that may not be fetched from"
    assert origin.hosts == []


async def test_a_redirect_to_a_private_address_is_refused(origin: Origin, fetch: Fetch) -> None:
    inside = origin.url("/image", CLOSED)
    await refusal(fetch(origin.url(f"/to?{inside}")), ImageUrlRefused)
    assert origin.hosts == [f"{OPEN}:{origin.port}"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "http://u:p@127.0.0.1/"]
)
async def test_a_redirect_to_another_scheme_or_with_credentials_is_refused(
    origin: Origin, fetch: Fetch, location: str
) -> None:
    await refusal(fetch(origin.url(f"/to?{location}")), ImageUrlRefused)


async def test_a_name_with_one_private_address_among_public_ones_is_refused(
    origin: Origin, fetch: Fetch, names: Names
) -> None:
    names.answers["mixed.test"] = [[OPEN, CLOSED]]
    await refusal(fetch(origin.url("/image", "mixed.test")), ImageUrlRefused)


async def test_the_address_checked_is_the_address_connected_to(
    origin: Origin, fetch: Fetch, names: Names
) -> None:
    names.answers["rebind.test"] = [[OPEN], [CLOSED]]
    assert await fetch(origin.url("/image", "rebind.test")) == picture()
    assert names.asked == ["rebind.test"]
    await refusal(fetch(origin.url("/image", "rebind.test")), ImageUrlRefused)


async def test_the_next_address_is_tried_when_one_refuses(origin: Origin, names: Names) -> None:
    names.answers["two.test"] = [["127.0.0.9", OPEN]]
    await origin.server.stop(0)
    await (second := HttpServer(origin.handle)).start(OPEN, 0)
    limits = MediaLimits(allowed_ports=(second.port,), allow_private=True)
    fetcher = ImageFetcher(limits, names)
    url = f"http://two.test:{second.port}/image"
    assert await fetcher.fetch(url, PARAM, ByteBudget(10_000)) == picture()
    await fetcher.close()
    await second.stop(0)


@pytest.mark.parametrize("path", ["/404", "/500", "/204", "/302"])
async def test_another_status_is_an_error_that_names_it(
    origin: Origin, fetch: Fetch, path: str
) -> None:
    message = await refusal(fetch(origin.url(path)), ImageNotFetched)
    assert message == f"the image URL answered {path[1:]}"


@pytest.mark.parametrize("path", ["/hang", "/stall"])
async def test_a_url_that_hangs_is_given_up(origin: Origin, fetch: Fetch, path: str) -> None:
    message = await refusal(fetch(origin.url(path), fetch_timeout_s=0.1), ImageNotFetched)
    assert message == "the image URL did not answer in full within 0.1 s"


async def test_a_server_that_breaks_off_is_an_error(origin: Origin, fetch: Fetch) -> None:
    assert "cannot be read" in await refusal(fetch(origin.url("/half")), ImageNotFetched)


async def test_a_server_that_is_not_there_is_an_error(origin: Origin, fetch: Fetch) -> None:
    await origin.server.stop(0)
    message = await refusal(fetch(origin.url("/image")), ImageNotFetched)
    assert message == "the image URL cannot be read (ConnectError)"


async def test_a_name_that_does_not_exist_is_an_error() -> None:
    async def nobody(host: str, port: int) -> Sequence[IpAddress]:
        raise OSError("no such name")

    fetcher = ImageFetcher(MediaLimits(), nobody)
    fetching = fetcher.fetch("http://nowhere.test/", PARAM, ByteBudget(1))
    assert "cannot be found" in await refusal(fetching, ImageNotFetched)
    await fetcher.close()


async def test_an_endless_image_is_cut_at_the_limit(origin: Origin, fetch: Fetch) -> None:
    message = await refusal(fetch(origin.url("/endless"), max_image_bytes=100_000), InvalidImage)
    assert message == "the image is over 100000 bytes"


async def test_an_announced_length_over_the_limit_is_refused(origin: Origin, fetch: Fetch) -> None:
    message = await refusal(fetch(origin.url("/image"), max_image_bytes=10), InvalidImage)
    assert message == "the image is over 10 bytes"


async def test_the_images_of_one_request_share_a_limit(origin: Origin) -> None:
    limits = MediaLimits(
        allow_private=True,
        allowed_ports=(origin.port,),
        max_fetched_bytes=len(picture()) * 2,
    )
    resolver = MediaResolver(limits)
    reference = ImageReference(origin.url("/image"), PARAM)
    assert len(await resolver.resolve([reference] * 2)) == 2
    with pytest.raises(InvalidImage, match="bytes together"):
        await resolver.resolve([reference] * 3)
    await resolver.close()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "//example.com/a.png",
        "example.com/a.png",
        "http://",
        "http:///a.png",
        "http://user@example.com/a.png",
        "http://example.com:22/a.png",
        "http://example.com:99999/a.png",
        "http://[::1/a.png",
        "http://exa\nmple.com/",
        "http://example.com/" + "a" * 9000,
        "",
    ],
)
async def test_urls_that_are_not_plain_http_are_refused(fetch: Fetch, url: str) -> None:
    await refusal(fetch(url), ImageUrlRefused)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("images.test", True),
        ("cdn.images.test", True),
        ("IMAGES.test", True),
        ("images.test.", True),
        ("badimages.test", False),
        ("images.test.evil.test", False),
    ],
)
async def test_a_list_of_domains_allows_them_and_their_subdomains(
    origin: Origin, fetch: Fetch, names: Names, host: str, allowed: bool
) -> None:
    for name in (host, host.lower()):
        names.answers[name] = [[OPEN]]
    fetching = fetch(origin.url("/image", host), allowed_domains=("images.test",))
    if allowed:
        assert await fetching == picture()
    else:
        assert "not on the allowed list" in await refusal(fetching, ImageUrlRefused)
        assert names.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_an_address_that_is_not_of_the_open_internet_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.215.14",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "127.1", "localhost", "[::ffff:127.0.0.1]"]
)
async def test_no_spelling_of_the_loopback_address_gets_through(host: str) -> None:
    fetcher = ImageFetcher(MediaLimits())
    fetching = fetcher.fetch(f"http://{host}/", PARAM, ByteBudget(1))
    with pytest.raises((ImageUrlRefused, ImageNotFetched)) as caught:
        await fetching
    assert "address that may not be fetched" in caught.value.message
    await fetcher.close()


async def test_the_systems_resolver_knows_an_address_when_it_sees_one() -> None:
    assert list(await SystemResolver()("127.0.0.1", 80)) == [ip_address("127.0.0.1")]
