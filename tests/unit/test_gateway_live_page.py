"""The live page: who gets it, and what it lets a browser do."""

import re
from importlib import resources

import pytest

from epd_gateway.errors import RouteNotFound
from epd_gateway.http import Request
from epd_gateway.live_page import LivePage, is_loopback

PATHS = ("/live", "/live.css", "/live.js", "/snapshot")


class Snapshot:
    def get(self):
        return {"pods": []}


class Response:
    def send(self, status, headers, body):
        self.status, self.headers, self.body = status, headers.decode(), body


async def get(page, path, host="127.0.0.1:8001"):
    request = Request("GET", path, headers={b"host": host})
    request.response = Response()
    await page.routes()[path]["GET"](request)
    return request.response


@pytest.mark.parametrize("path", PATHS)
async def test_every_part_forbids_what_is_not_of_this_origin(path):
    answer = await get(LivePage(Snapshot(), "127.0.0.1", anywhere=False), path)
    assert answer.status == 200
    policy = re.search("content-security-policy: (.*)\r\n", answer.headers)[1]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "x-content-type-options: nosniff" in answer.headers


def test_only_reading_is_served():
    page = LivePage(Snapshot(), "127.0.0.1", anywhere=True)
    assert {method for methods in page.routes().values() for method in methods} == {"GET"}


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "gateway.example"])
async def test_it_is_off_where_others_could_reach_it(host):
    page = LivePage(Snapshot(), host, anywhere=False)
    for path in PATHS:
        with pytest.raises(RouteNotFound, match=r"live\.anywhere"):
            await get(page, path)
    assert (
        await get(LivePage(Snapshot(), host, anywhere=True), "/live", "a.example")
    ).status == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8001", "10.0.0.1:1", "", "127.1.evil"]
)
async def test_on_loopback_it_answers_to_no_other_name(name):
    with pytest.raises(RouteNotFound, match="localhost"):
        await get(LivePage(Snapshot(), "127.0.0.1", anywhere=False), "/snapshot", name)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8001", "[::1]"])
async def test_on_loopback_it_answers_to_loopbacks_names(name):
    page = LivePage(Snapshot(), "::1", anywhere=False)
    assert (await get(page, "/snapshot", name)).body == b'{"pods":[]}'


def test_loopback_is_told_from_other_addresses():
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "localhost.evil", "")] == [False] * 4


def test_no_file_names_another_place_and_text_goes_in_as_text():
    for file in (resources.files("epd_gateway") / "live").iterdir():
        text = file.read_text()
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text), file.name
        assert "innerHTML" not in text
        assert not re.search(r"<script>|<style>|\son\w+=|style=", text), file.name
