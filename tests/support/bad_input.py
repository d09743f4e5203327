"""The table of docs/errors.md, and how a bad request is sent and its answer checked."""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
IMAGE_PARAM = "messages[0].content[0].image_url.url"
READ_TIMEOUT_S = 60
API_KEY = "a-key-of-the-test"

GATEWAY_SECTIONS = ("HTTP", "the body", "images", "image URLs")
ENGINE_SECTION = "The engine refuses"
VLLM_SECTION = "vLLM refuses, and the simulated engine does not"


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    section: str
    id: str
    status: int
    code: str | None
    param: str | None
    message: str

    def says(self, message: str) -> bool:
        """Tell whether a message is the row's; `…` stands for anything."""
        pattern = ".*".join(map(re.escape, self.message.split("…")))
        return re.fullmatch(pattern, message) is not None


def rows() -> list[Row]:
    """Return the rows of the page."""
    return list(_rows(PAGE.read_text(encoding="utf-8").partition("## Bad input")[2]))


def rows_of(*sections: str) -> list[Row]:
    """Return the rows of some sections."""
    return [row for row in rows() if row.section in sections]


def _rows(text: str) -> Iterator[Row]:
    section = ""
    for line in text.splitlines():
        if line.startswith("### "):
            section = line.removeprefix("### ").removeprefix("The gateway refuses: ")
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 6:
            name, _, status, code, param, message = (cell.strip() for cell in cells)
            yield Row(section, _bare(name) or "", int(status), _bare(code), _param(param), message)


def _bare(cell: str) -> str | None:
    return None if cell == "null" else cell.strip("`")


def _param(cell: str) -> str | None:
    return IMAGE_PARAM if cell == "I" else _bare(cell)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raised: openai.APIStatusError | None = None
    """What the official client made of it, where it was the one who asked."""

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@dataclass
class Service:
    """A running gateway, as a client sees it."""

    url: str
    model: str
    pictures: str = ""
    """Where the stranger's web server is."""
    refusing: str = ""
    """A URL where nobody listens."""
    key: str = API_KEY

    def client(self) -> openai.OpenAI:
        """Return the official client, which never tries twice."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.key,
            max_retries=0,
            http_client=httpx.Client(trust_env=False, timeout=READ_TIMEOUT_S),
        )


class Case:
    """A bad request. `service` names the one it is sent to."""

    service = "main"

    def send(self, service: Service) -> Answer:
        """Send it, and return what comes back."""
        raise NotImplementedError


@dataclass
class Json(Case):
    """A JSON body, sent by the official client."""

    path: str
    fields: dict[str, Any]
    service: str = "main"

    def body(self, service: Service) -> dict[str, Any]:
        """Return the body; a field that is given as None is left out."""
        body = {"model": service.model, "max_tokens": 3, **self.base(service), **self.fields}
        return {name: value for name, value in body.items() if value is not None}

    def base(self, service: Service) -> dict[str, Any]:
        """Return what a good request to this path holds."""
        if self.path == "/completions":
            return {"prompt": "hello"}
        return {"messages": [{"role": "user", "content": "hello"}]}

    def send(self, service: Service) -> Answer:
        with service.client() as client:
            return self.ask(client, service)

    def ask(self, client: openai.OpenAI, service: Service) -> Answer:
        """Send it through a client of the service."""
        refused = None
        try:
            answer = client.post(self.path, cast_to=httpx.Response, body=self.body(service))
        except openai.APIStatusError as error:
            answer, refused = error.response, error
        return Answer(answer.status_code, answer.headers, answer.content, refused)


@dataclass
class Picture(Json):
    """A chat with images; URLs may hold `{pictures}` and `{refusing}` of the service."""

    path: str = "/chat/completions"
    fields: dict[str, Any] = field(default_factory=dict)
    urls: tuple[str, ...] = ()

    def base(self, service: Service) -> dict[str, Any]:
        places = {"pictures": service.pictures, "refusing": service.refusing}
        urls = (url.format(**places) for url in self.urls)
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"messages": [{"role": "user", "content": parts}]}


@dataclass
class Http(Case):
    """A well-formed HTTP request that the official client would not send."""

    content: bytes = b""
    path: str = "/v1/chat/completions"
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, service: Service) -> Answer:
        headers = {"content-type": "application/json", "authorization": f"Bearer {service.key}"}
        answer = httpx.request(
            self.method,
            service.url + self.path,
            content=self.content,
            headers={**headers, **self.headers},
            timeout=READ_TIMEOUT_S,
            trust_env=False,
        )
        return Answer(answer.status_code, answer.headers, answer.content)


@dataclass
class Raw(Case):
    """Bytes; the sender then waits for the answer and sends nothing more."""

    data: bytes

    def send(self, service: Service) -> Answer:
        where = urlsplit(service.url)
        with socket.create_connection((where.hostname, where.port), READ_TIMEOUT_S) as client:
            client.sendall(self.data)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            body = answer.read()
            return Answer(answer.status, dict(answer.getheaders()), body)


def check(row: Row, answer: Answer, *, exact_message: bool = True) -> None:
    """Check an answer against its row, and what holds for every refusal."""
    assert answer.status == row.status, answer
    kind = answer.headers.get("content-type") or answer.headers.get("Content-Type")
    assert kind == "application/json"
    error = answer.error
    assert set(json.loads(answer.body)) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    too_much = row.status == 429
    assert error["type"] == ("rate_limit_error" if too_much else "invalid_request_error")
    assert ("retry-after" in answer.headers) == too_much
    assert error["code"] == row.code, error
    assert row.param == "…" or error["param"] == row.param, error
    message = error["message"]
    assert message
    assert "\n" not in message
    for leak in ("Traceback", "/site-packages/", ".py", "object at 0x", API_KEY):
        assert leak not in answer.body.decode(), message
    if exact_message:
        assert row.says(message), message
    if answer.raised is not None:
        assert type(answer.raised) is _EXCEPTIONS[row.status]
        assert answer.raised.body == error


_EXCEPTIONS: Mapping[int, type[Exception]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
}
