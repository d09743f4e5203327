"""Clients of a cluster that ask all the time: chats with and without pictures, and mischief."""

import asyncio
import base64
import io
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
from PIL import Image

PICTURE: Final = (896, 896)
PATIENCE_S: Final = 60.0
PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked: clients at once, pictures in each chat, tokens in each answer."""

    clients: int
    pictures: int
    tokens: int


class Traffic:
    """Clients in a thread of their own; `mix` may change at any time."""

    def __init__(self, url: str, model: str, mix: Mix) -> None:
        """Ask the gateway at `url`."""
        self.mix = mix
        self.answered = 0
        self._url = url
        self._model = model
        self._count = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask no more; return once all have been answered or given up."""
        self._ending.set()
        self._thread.join()

    def be_rude(self) -> None:
        """Send a header that is too long, and leave in the middle of an answer."""
        where = urlsplit(self._url)
        address = (str(where.hostname), int(where.port or 80))
        with socket.create_connection(address) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n")
            with suppress(OSError):
                rude.recv(1 << 16)
        with httpx.Client(base_url=self._url, trust_env=False, timeout=PATIENCE_S) as client:
            body = self._body(Mix(1, 0, 400))
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_raw())

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self._url, trust_env=False, timeout=PATIENCE_S, limits=limits
        ) as client:
            running: set[asyncio.Task[None]] = set()
            while not self._ending.is_set():
                while len(running) < self.mix.clients:
                    task = asyncio.create_task(self._ask(client))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.sleep(PAUSE_S)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _ask(self, client: httpx.AsyncClient) -> None:
        with suppress(httpx.HTTPError):
            body = self._body(self.mix)
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for _ in answer.aiter_raw():
                    pass
                self.answered += answer.is_success

    def _body(self, mix: Mix) -> dict[str, Any]:
        self._count += 1
        content: list[dict[str, Any]] = [{"type": "text", "text": f"{self._count}: what is it?"}]
        content += (
            {"type": "image_url", "image_url": {"url": picture(self._count * 16 + number)}}
            for number in range(mix.pictures)
        )
        return {
            "model": self._model,
            "max_tokens": mix.tokens,
            "stream": True,
            "messages": [{"role": "user", "content": content}],
        }


def picture(number: int) -> str:
    """Return a data URL of a picture that no other number has."""
    data = io.BytesIO()
    colour = (number % 256, number // 256 % 256, number // 65536 % 256)
    Image.new("RGB", PICTURE, colour).save(data, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
