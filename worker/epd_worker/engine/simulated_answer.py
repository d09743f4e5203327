"""What the simulated engine answers: tokens that anybody can foretell, in OpenAI's bytes.

Token i of a choice is a function of the request's seed and of i alone, so any worker can continue
any stream, and a lost, doubled or swapped token shows in the text.
"""

import json
from array import array
from collections.abc import Sequence
from hashlib import shake_128
from itertools import pairwise

from epd.wire.messages import Api, FailureKind, Generate
from epd_worker.engine import Emit, EngineError
from epd_worker.engine.simulated_prompt import Rendered

_DONE = b"data: [DONE]\n\n"


def token_ids(seed: bytes, choice: int, count: int) -> "array[int]":
    """Return the first `count` tokens of a choice, each below 65,536."""
    drawn = shake_128(seed + choice.to_bytes(4, "little")).digest(2 * count)
    return array("I", memoryview(drawn).cast("H"))


def text_of(token_id: int) -> str:
    """Return the text of a token: seven characters that need no escaping in JSON."""
    return f" w{token_id:05d}"


class _Choice:
    """One of the n answers: its tokens, the text that each of them sets free, and its end."""

    def __init__(self, rendered: Rendered, seed: bytes, index: int) -> None:
        self.finish_reason = "stop" if rendered.ends_by_itself else "length"
        self.ids = token_ids(seed, index, rendered.max_tokens)
        self.stopped_deltas: list[str] | None = None
        if rendered.stop:
            self._apply(rendered.stop)
        self.raw = self.ids.tobytes()

    def _apply(self, stop: Sequence[str]) -> None:
        """Cut at the first stop string; hold text back that may become one, as vLLM does."""
        held = max(map(len, stop)) - 1
        text, count, ends = "", 0, [0]
        for token_id in self.ids:
            count += 1
            text += text_of(token_id)
            hits = [at for at in (text.find(string, ends[-1]) for string in stop) if at >= 0]
            if hits:
                text, self.finish_reason = text[: min(hits)], "stop"
                break
            ends.append(max(ends[-1], len(text) - held))
        ends[count:] = [len(text)]
        self.ids = self.ids[:count]
        self.stopped_deltas = [text[start:end] for start, end in pairwise(ends)]

    def delta(self, position: int) -> str:
        if self.stopped_deltas is not None:
            return self.stopped_deltas[position]
        return text_of(self.ids[position])

    def text(self) -> str:
        return "".join(map(self.delta, range(len(self.ids))))


class Answer:
    """The answer to one request from the first token that the client lacks; one `step` a token.

    All choices advance together. A request that is not streamed passes on its tokens without bytes,
    which come at its end.
    """

    __slots__ = (
        "_choices", "_chunked", "_emit", "_envelope", "_head", "_ids", "_is_chat",
        "_last", "_position", "_raw", "_rendered", "_stream", "_tail", "output_tokens",
    )  # fmt: skip

    def __init__(
        self, rendered: Rendered, work: Generate, seed: bytes, model: str, emit: Emit
    ) -> None:
        """Prepare to continue after `work.emitted_token_ids`.

        Raises `EngineError(INTERNAL)` where those are not the first tokens of this answer.
        """
        self._rendered = rendered
        self._emit = emit
        self._stream = work.stream
        self._chunked = work.http_chunks
        self._is_chat = work.api is Api.CHAT_COMPLETIONS
        self._choices = [_Choice(rendered, seed, index) for index in range(rendered.choices)]
        counts = [len(choice.ids) for choice in self._choices]
        self.output_tokens = sum(counts)
        self._last = max(counts) - 1
        kind = "chat.completion" if self._is_chat else "text_completion"
        self._envelope = {
            "id": work.response_id,
            "object": f"{kind}.chunk" if self._is_chat and work.stream else kind,
            "created": work.created_s,
            "model": model,
        }
        self._position = self._resume_at(work.emitted_token_ids)
        self._ids, self._raw = self._choices[0].ids, self._choices[0].raw
        self._head = self._tail = b""
        if work.stream and rendered.choices == 1 and not rendered.stop:
            marker = text_of(0).encode()
            framed = self._frame(self._event(0, marker.decode(), None))
            self._head, _, self._tail = framed.rpartition(marker)

    @property
    def ended(self) -> bool:
        """Whether the client has had everything."""
        return self._position > self._last

    def step(self) -> bool:
        """Emit one token of each choice; tell whether that was the end."""
        position = self._position
        self._position = position + 1
        if 0 < position < self._last and self._head:
            start = 4 * position
            self._emit(
                b"%b w%05d%b" % (self._head, self._ids[position], self._tail),
                self._raw[start : start + 4],
            )
            return False
        return self._rare_step(position)

    def _rare_step(self, position: int) -> bool:
        ended = position >= self._last
        if self._stream:
            payload = self._events_at(position, ended)
        else:
            payload = self._whole() if ended else b""
        tokens = self._tokens_between(position, position + 1)
        self._emit(self._frame(payload) if payload else b"", tokens)
        return ended

    def _resume_at(self, emitted: bytes) -> int:
        """Return the position after the tokens that the client has had."""
        position, had = 0, 0
        while had < len(emitted) and position <= self._last:
            had += 4 * sum(position < len(choice.ids) for choice in self._choices)
            position += 1
        if self._tokens_between(0, position) != emitted:
            raise EngineError(
                FailureKind.INTERNAL, "the tokens emitted so far are not those of this request"
            )
        return position

    def _tokens_between(self, start: int, end: int) -> bytes:
        if len(self._choices) == 1:
            return self._choices[0].raw[4 * start : 4 * end]
        return b"".join(
            choice.raw[4 * position : 4 * position + 4]
            for position in range(start, end)
            for choice in self._choices
        )

    def _events_at(self, position: int, ended: bool) -> bytes:
        events = []
        if position == 0 and self._is_chat:
            events = [self._event(index, "", None, "assistant") for index in self._indices()]
        for index, choice in enumerate(self._choices):
            if position < len(choice.ids):
                last = position == len(choice.ids) - 1
                delta = choice.delta(position)
                if delta or last:
                    events.append(self._event(index, delta, choice.finish_reason if last else None))
        if ended:
            if self._rendered.include_usage:
                events.append(_sse({**self._envelope, "choices": [], "usage": self._usage()}))
            events.append(_DONE)
        return b"".join(events)

    def _indices(self) -> range:
        return range(len(self._choices))

    def _event(self, index: int, text: str, reason: str | None, role: str | None = None) -> bytes:
        part: dict[str, object] = {"index": index}
        if self._is_chat:
            part["delta"] = {"role": role, "content": text} if role else {"content": text}
        else:
            part["text"] = text
        part |= {"logprobs": None, "finish_reason": reason}
        chunk: dict[str, object] = {**self._envelope, "choices": [part]}
        if self._rendered.include_usage:
            chunk["usage"] = None
        return _sse(chunk)

    def _whole(self) -> bytes:
        choices = []
        for index, choice in enumerate(self._choices):
            text = choice.text()
            content: dict[str, object] = (
                {"message": {"role": "assistant", "content": text}}
                if self._is_chat
                else {"text": text}
            )
            end = {"logprobs": None, "finish_reason": choice.finish_reason}
            choices.append({"index": index, **content, **end})
        return _json({**self._envelope, "choices": choices, "usage": self._usage()})

    def _usage(self) -> dict[str, int]:
        prompt_tokens = self._rendered.prompt_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": prompt_tokens + self.output_tokens,
        }

    def _frame(self, payload: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(payload), payload) if self._chunked else payload


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sse(value: object) -> bytes:
    return b"data: %b\n\n" % _json(value)
