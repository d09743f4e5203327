"""The bad requests of docs/errors.md, by the ids of its rows."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
from bad_input import API_KEY, READ_TIMEOUT_S, Answer, Case, Http, Json, Picture, Raw, Service
from PIL import Image

CHAT = "/chat/completions"
COMPLETIONS = "/completions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TWO_IMAGES = "two images"
TEXT_ONLY = "text only"
LIMITED = "limited"

# What the gateway under test is told, so that limits are reached in little time.
LIMITS = {
    "limits.max_header_bytes": 8000,
    "limits.max_body_bytes": 300_000,
    "limits.header_timeout_s": 2,
    "limits.body_timeout_s": 2,
    "limits.sweep_interval_s": 0.1,
    "media.max_images": 4,
    "media.max_image_bytes": 50_000,
    "media.max_image_pixels": 1_000_000,
    "media.max_fetched_bytes": 60_000,
    "media.fetch_timeout_s": 3,
}


# What each key may ask of the gateway `LIMITED`; there is one key for each way to ask too much.
KEY_LIMITS = {"keys.max_in_flight": 3, "keys.max_per_minute": 40}
HASTY_KEY, BUSY_KEY = "a-hasty-key", "a-busy-key"


def picture(
    kind: str = "PNG", size: tuple[int, int] = (48, 32), colour: str | None = "teal"
) -> bytes:
    """Return an encoded image; without a colour it is noise, which does not compress."""
    data = io.BytesIO()
    if colour is None:
        Image.effect_noise(size, 80).save(data, kind)
    else:
        Image.new("RGB", size, colour).save(data, kind)
    return data.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    """Return a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(size: tuple[int, int], pixels: bytes) -> bytes:
    """Return a PNG whose chunks are sound, whatever they hold."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


GOOD = data_url(picture())


def raw(*lines: str, body: bytes = b"") -> Raw:
    """Return a POST to the chat route with these header lines."""
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: test", "Content-Type: application/json"]
    return Raw("\r\n".join([*head, *lines, "", ""]).encode() + body)


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chat(**fields: Any) -> Json:
    """Return a chat, sound but for `fields`; None leaves one out."""
    return Json(CHAT, fields)


def message(**fields: Any) -> Json:
    """Return a chat of one message, sound but for `fields`."""
    whole = {"role": "user", "content": "hello", **fields}
    return chat(messages=[{name: value for name, value in whole.items() if value is not None}])


def part(value: Any) -> Json:
    """Return a chat of one content part."""
    return message(content=[value])


def completion(**fields: Any) -> Json:
    """Return a completion, sound but for `fields`."""
    return Json(COMPLETIONS, fields)


def image(*urls: str) -> Picture:
    """Return a chat of nothing but images."""
    return Picture(urls=urls)


def at(path: str) -> Picture:
    """Return a chat about an image on the stranger's web server."""
    return image("{pictures}/" + path)


def deep(levels: int, content: Any) -> bytes:
    """Return a chat with a field that is nested so deep."""
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": "MODEL", "messages": messages, "metadata": 0})
    return body.replace(": 0}", f": {'[' * levels}{']' * levels}}}").encode()


class Deep(Http):
    """Deeply nested JSON; only the service knows its model."""

    def send(self, service: Any) -> Any:
        return Http(self.content.replace(b"MODEL", service.model.encode())).send(service)


class Often(Case):
    """One request after another, until one is refused."""

    service = LIMITED

    def send(self, service: Service) -> Answer:
        client = replace(service, key=HASTY_KEY)
        for _ in range(100 * KEY_LIMITS["keys.max_per_minute"]):
            answer = Http(b"{}").send(client)
            if answer.status == 429:
                break
        return answer


class Together(Case):
    """As many streams as a key may have, and one more."""

    service = LIMITED

    def send(self, service: Service) -> Answer:
        one = chat(stream=True, max_tokens=1000)
        client = replace(service, key=BUSY_KEY)
        url, key = f"{service.url}/v1{one.path}", {"authorization": f"Bearer {BUSY_KEY}"}
        with ExitStack() as stack:
            http = stack.enter_context(httpx.Client(trust_env=False, timeout=READ_TIMEOUT_S))
            for _ in range(KEY_LIMITS["keys.max_in_flight"]):
                body = one.body(client)
                stack.enter_context(http.stream("POST", url, json=body, headers=key))
            return one.send(client)


IMAGE_PART = [{"type": "image_url", "image_url": {"url": GOOD}}]

HTTP_CASES: Mapping[str, Case] = {
    "not-http": Raw(b"hello there\r\n\r\n"),
    "http-2": Raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no-host": Raw(b"GET /v1/models HTTP/1.1\r\n\r\n"),
    "two-lengths": raw("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "tiny-chunks": raw("Transfer-Encoding: chunked", body=b"1;padding=xxxxxxxx\r\nx\r\n" * 30_000),
    "headers-too-large": raw(f"X-Filler: {'x' * 9000}"),
    "endless-target": Raw(b"GET /" + b"x" * 9000),
    "slow-headers": Raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: te"),
    "slow-body": raw("Content-Length: 100", body=b'{"model":'),
    "body-too-large": raw("Content-Length: 300001"),
    "chunked-body-too-large": raw("Transfer-Encoding: chunked", body=chunk(b" " * 300_001)),
    "wrong-path": Http(path="/v1/nothing"),
    "wrong-method": Http(method="GET"),
    "wrong-content-type": Http(b"{}", headers={"content-type": "text/plain"}),
    "no-key": Http(b"{}", headers={"authorization": ""}),
    "wrong-key": Http(b"{}", headers={"authorization": f"Bearer {API_KEY}x"}),
    "too-many-a-minute": Often(),
    "too-many-in-flight": Together(),
}

BODY_CASES: Mapping[str, Case] = {
    "no-body": Http(),
    "malformed-json": Http(b'{"model": "m", "messages": ['),
    "not-utf-8": Http(b'{"model": "\xff"}'),
    "deep-json": Deep(deep(5000, "hello")),
    "deep-json-with-image": Deep(deep(300, IMAGE_PART)),
    "not-an-object": Http(b"[]"),
    "no-model": chat(model=None),
    "model-type": chat(model=5),
    "unknown-model": chat(model="nobody"),
    "unknown-model-card": Http(path="/v1/models/nobody", method="GET"),
    "no-messages": chat(messages=None),
    "messages-type": chat(messages="hi"),
    "message-type": chat(messages=["hi"]),
    "no-role": message(role=None),
    "unknown-role": message(role="wizard"),
    "content-type": message(content=5),
    "part-type": part("hello"),
    "no-part-kind": part({"text": "hello"}),
    "unknown-part-kind": part({"type": "video_url", "video_url": {"url": "http://a.example"}}),
    "audio-part": part({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    "no-text": part({"type": "text"}),
    "hidden-image": part({"type": "text", "text": "hello", "image_url": {"url": GOOD}}),
    "no-image-url": part({"type": "image_url", "image_url": {}}),
    "stream-type": chat(stream="yes"),
    "n-type": chat(n="two"),
    "no-prompt": completion(prompt=None),
    "prompt-type": completion(prompt={}),
    "audio-modality": chat(modalities=["text", "audio"]),
    "audio-options": chat(audio={"voice": "alloy", "format": "wav"}),
    "functions": chat(functions=[{"name": "f"}]),
    "web-search": chat(web_search_options={}),
    "handoff-of-a-stranger": chat(kv_transfer_params={"do_remote_prefill": True}),
}

IMAGE_CASES: Mapping[str, Case] = {
    "svg": image(data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")),
    "bmp": image(data_url(picture("BMP"), "image/bmp")),
    "pdf": image(data_url(picture("PDF"), "application/pdf")),
    "bmp-in-disguise": image(data_url(picture("BMP"))),
    "wrong-type-declared": image(data_url(picture("JPEG"))),
    "not-base64": image("data:image/png,hello"),
    "bad-base64": image(GOOD[:60] + "!" + GOOD[61:]),
    "truncated-png": image(data_url(picture()[:-20])),
    "truncated-jpeg": image(data_url(picture("JPEG")[:-20], "image/jpeg")),
    "image-too-many-bytes": image(data_url(picture(size=(300, 300), colour=None))),
    "decompression-bomb": image(data_url(png((60_000, 60_000), b""))),
    "too-many-images": image(*5 * [GOOD]),
    "too-many-images-for-model": Picture(urls=tuple(3 * [GOOD]), service=TWO_IMAGES),
    "image-for-a-text-model": Picture(urls=(GOOD,), service=TEXT_ONLY),
}

URL_CASES: Mapping[str, Case] = {
    "ftp-url": image("ftp://a.example/image.png"),
    "file-url": image("file:///etc/hostname"),
    "reference-of-a-stranger": image("epd:image:0"),
    "malformed-url": image("http://[::1"),
    "long-url": image("http://a.example/" + 9000 * "x"),
    "url-with-password": image("http://user:password@a.example/image.png"),
    "url-with-port": image("http://a.example:22/image.png"),
    "loopback-url": image("http://127.0.0.1/image.png"),
    "loopback-name": image("http://localhost/image.png"),
    "loopback-number": image("http://2130706433/image.png"),
    "loopback-ipv6": image("http://[::1]/image.png"),
    "mapped-ipv6": image("http://[::ffff:127.0.0.1]/image.png"),
    "private-url": image("http://10.0.0.1/image.png"),
    "link-local-url": image("http://169.254.169.254/latest/meta-data/"),
    "redirect-to-private": at("redirect?http://127.0.0.1/image.png"),
    "redirect-to-file": at("redirect?file:///etc/hostname"),
    "redirect-loop": at("loop"),
    "url-404": at("404"),
    "url-of-nobody": image(f"http://{64 * 'a'}.example/image.png"),
    "url-refuses": image("{refusing}"),
    "url-not-http": at("noise"),
    "url-hangs": at("silence"),
    "url-drips": at("drip"),
    "url-too-large": at("large"),
    "url-grows-too-large": at("growing"),
    "urls-too-large-together": image(*(f"{{pictures}}/image?{n}" for n in range(4))),
    "url-not-an-image": at("html"),
}

ENGINE_CASES: Mapping[str, Case] = {
    "prompt-over-context": message(content=20_000 * "word "),
    "completion-over-context": completion(prompt=20_000 * "word "),
    "empty-prompt": completion(prompt=""),
    "unknown-token": completion(prompt=[10_000_000]),
    "max-tokens-zero": chat(max_tokens=0),
    "max-tokens-negative": chat(max_tokens=-3),
    "max-tokens-type": chat(max_tokens="many"),
    "max-tokens-over-context": chat(max_tokens=10_000_000),
    "max-completion-tokens-zero": chat(max_tokens=None, max_completion_tokens=0),
    "n-zero": chat(n=0),
    "temperature-type": chat(temperature="hot"),
    "temperature-range": chat(temperature=3),
    "top-p-range": chat(top_p=2),
    "penalty-range": chat(presence_penalty=5),
    "seed-type": chat(seed="x"),
    "stop-type": chat(stop=5),
    "stop-empty": chat(stop=""),
    "stream-options-alone": chat(stream_options={"include_usage": True}),
    "top-logprobs-range": chat(logprobs=True, top_logprobs=100),
    "top-logprobs-alone": chat(top_logprobs=3),
    "tools-without-parser": chat(tools=[TOOL]),
    "no-tools": chat(tools=[]),
    "tool-choice-alone": chat(tool_choice="auto"),
    "format-without-schema": chat(response_format={"type": "json_schema"}),
    "odd-structured-outputs": chat(structured_outputs=5),
    "deep-json-for-the-engine": Deep(deep(1010, "hello")),
}

VLLM_CASES: Mapping[str, Case] = {
    "damaged-pixels": image(data_url(png((64, 64), b"\0" * 100))),
    "odd-shape": image(data_url(picture(size=(1, 300)))),
    "impossible-schema": chat(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "nonsense"}},
        }
    ),
    "unknown-field-of-a-tool": chat(tools=[{"type": "function"}]),
    "own-chat-template": chat(chat_template="{{ messages }}"),
    "processor-options": Picture(urls=(GOOD,), fields={"mm_processor_kwargs": {"a": 1}}),
}

CASES: Mapping[str, Case] = {
    **HTTP_CASES, **BODY_CASES, **IMAGE_CASES, **URL_CASES, **ENGINE_CASES, **VLLM_CASES,
}  # fmt: skip
