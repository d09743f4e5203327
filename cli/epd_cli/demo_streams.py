"""Chats that the demo holds, through the official `openai` client, and what came of them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import openai
from PIL import Image

from epd_cli.demo_images import draw, image_part

SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Ask:
    """One chat: a prompt, pictures, and how the answer is wanted."""

    prompt: str
    pictures: Sequence[Image.Image] = ()
    max_tokens: int = 32
    stream: bool = True

    @property
    def title(self) -> str:
        """What kind of chat it is, for a table."""
        count = len(self.pictures)
        what = "text" if not count else "1 image" if count == 1 else f"{count} images"
        return f"{what}, {'streamed' if self.stream else 'whole'}"

    def body(self, model: str) -> dict[str, Any]:
        """Return the arguments of the client's call; greedy, so that answers can be compared."""
        content = [image_part(picture) for picture in self.pictures]
        body: dict[str, Any] = {
            "model": model,
            "messages": [
                {"role": "user", "content": [*content, {"type": "text", "text": self.prompt}]}
            ],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "seed": SEED,
            "stream": self.stream,
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return body


@dataclass(slots=True)
class Answer:
    """What a client got; `error` is one line, empty if all went well."""

    identifier: str = ""
    text: str = ""
    finish_reason: str | None = None
    output_tokens: int = 0
    ttft_ms: float | None = None
    took_ms: float = 0.0
    error: str = ""

    def same_as(self, other: "Answer") -> bool:
        """Tell whether a client could not tell the two apart."""
        return (self.text, self.finish_reason, self.output_tokens, self.error) == (
            other.text,
            other.finish_reason,
            other.output_tokens,
            other.error,
        )


class Client:
    """Asks one gateway for one model."""

    def __init__(self, base_url: str, model: str, key: str = "none") -> None:
        """Talk to the gateway at `base_url`, which ends in `/v1`; show it `key`."""
        self._openai = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)
        self._model = model

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    async def ask(self, ask: Ask) -> Answer:
        """Return the whole answer; an error of the service is part of it, not raised."""
        answer = Answer()
        began_s = time.monotonic()
        try:
            if ask.stream:
                await self._stream(ask, answer, began_s)
            else:
                await self._whole(ask, answer)
        except openai.OpenAIError as failure:
            answer.error = " ".join(str(failure).split())[:200] or type(failure).__name__
        answer.took_ms = (time.monotonic() - began_s) * 1000
        return answer

    async def _stream(self, ask: Ask, answer: Answer, began_s: float) -> None:
        pieces = []
        stream = await self._openai.chat.completions.create(**ask.body(self._model))
        async for chunk in stream:
            answer.identifier = chunk.id
            if chunk.usage:
                answer.output_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content and answer.ttft_ms is None:
                    answer.ttft_ms = (time.monotonic() - began_s) * 1000
                pieces.append(choice.delta.content or "")
                answer.finish_reason = choice.finish_reason or answer.finish_reason
        answer.text = "".join(pieces)
        if answer.finish_reason is None:
            answer.error = "the stream ended before the answer did"

    async def _whole(self, ask: Ask, answer: Answer) -> None:
        completion = await self._openai.chat.completions.create(**ask.body(self._model))
        answer.identifier = completion.id
        answer.text = completion.choices[0].message.content or ""
        answer.finish_reason = completion.choices[0].finish_reason
        if completion.usage:
            answer.output_tokens = completion.usage.completion_tokens


@dataclass(slots=True)
class Slot:
    """One of the places in which streams run one after the other, all of them the same chat."""

    ask: Ask
    reference: Answer
    answers: list[Answer] = field(default_factory=list)
    running: bool = False

    async def repeat(self, client: Client, enough: asyncio.Event) -> None:
        """Ask again and again; the last stream begins before `enough` is set."""
        while not enough.is_set():
            self.running = True
            try:
                self.answers.append(await client.ask(self.ask))
            finally:
                self.running = False

    @property
    def errors(self) -> list[str]:
        """What went wrong."""
        return [answer.error for answer in self.answers if answer.error]

    @property
    def different(self) -> int:
        """How many complete answers are not the reference's."""
        complete = [answer for answer in self.answers if not answer.error]
        return sum(not answer.same_as(self.reference) for answer in complete)


def plain_chats(with_images: bool) -> list[Ask]:
    """Return the chats that show how requests travel."""
    text = [
        Ask("Say hello in one sentence."),
        Ask("Name three colours.", stream=False),
    ]
    if not with_images:
        return text
    return [
        text[0],
        Ask("What is in this picture?", [draw(1)]),
        Ask("Compare these pictures.", [draw(2), draw(3, (160, 224))]),
        Ask("Which colour is largest?", [draw(4)], stream=False),
        text[1],
    ]


def long_chats(count: int, with_images: bool, max_tokens: int) -> list[Ask]:
    """Return `count` different chats with long answers, some about a picture."""
    return [
        Ask(
            f"Tell story number {index}, as long as you can.",
            [draw(100 + index)] if with_images and index % 2 == 0 else [],
            max_tokens,
        )
        for index in range(count)
    ]


def probe(number: int, with_images: bool) -> Ask:
    """Return a short chat that no pod has seen, so that nothing of it is cached."""
    pictures = [draw(1000 + number)] if with_images else []
    return Ask(f"Question {number}: what is this?", pictures, max_tokens=4)
