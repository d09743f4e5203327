"""Chats through the official client that are watched while their answers come."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from epd_cli.demo_images import draw
from epd_cli.demo_streams import Ask

PICTURE_SIZE = (112, 84)


def ask_about(number: int, pictures: int = 0, **options: Any) -> Ask:
    """Return a chat; equal numbers make equal words and pictures, others different ones."""
    drawn = [draw(100 * number + index, PICTURE_SIZE) for index in range(pictures)]
    return Ask(f"{number}: what would you say about this?", drawn, **options)


@dataclass(frozen=True)
class Said:
    """A whole answer; what two clients compare."""

    text: str
    finish_reason: str | None
    output_tokens: int


@dataclass(eq=False)
class ChatStream:
    """One chat, from its request to its end.

    Attributes:
        ask: What is asked.
        pieces: The text, one item an event.
        said: The answer, once it is whole.
        error: What went wrong, in one line.
    """

    ask: Ask
    pieces: list[str] = field(default_factory=list)
    response_id: str = ""
    said: Said | None = None
    error: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.said is not None or bool(self.error)

    async def run(self, client: openai.AsyncOpenAI, model: str) -> "ChatStream":
        """Ask and take the answer; an error of the service is kept, not raised."""
        try:
            await self._take(client, model)
        except openai.OpenAIError as failure:
            self.error = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
        except asyncio.CancelledError:
            self.error = "cancelled"
            raise
        finally:
            self._changed.set()
        return self

    async def until(self, holds: Callable[["ChatStream"], bool]) -> None:
        """Wait until something holds, or the stream has ended."""
        while not (self.ended or holds(self)):
            self._changed.clear()
            await self._changed.wait()

    async def until_pieces(self, count: int) -> None:
        """Wait for so much of the answer, or its end."""
        await self.until(lambda stream: len(stream.pieces) >= count)

    async def _take(self, client: openai.AsyncOpenAI, model: str) -> None:
        answer: Any = await client.chat.completions.create(**self.ask.body(model))
        if not self.ask.stream:
            choice = answer.choices[0]
            self.response_id = answer.id
            self.said = Said(
                choice.message.content, choice.finish_reason, answer.usage.completion_tokens
            )
            return
        finish_reason, output_tokens = None, 0
        async with answer:
            async for chunk in answer:
                self.response_id = chunk.id
                if chunk.usage:
                    output_tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    if choice.delta.content:
                        self.pieces.append(choice.delta.content)
                        self._changed.set()
        if finish_reason is None:
            self.error = "the stream ended before the answer did"
        else:
            self.said = Said("".join(self.pieces), finish_reason, output_tokens)


def client_of(gateway_url: str) -> openai.AsyncOpenAI:
    """Return the official client, which never tries twice."""
    return openai.AsyncOpenAI(
        base_url=f"{gateway_url}/v1", api_key="none", max_retries=0, timeout=120
    )


numbers = itertools.count(1_000_000)
"""Numbers for chats that nobody has had before, so that nothing of them is cached."""
