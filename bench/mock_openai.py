"""An OpenAI-compatible worker that only pretends: chat completions at the pace of an engine.

    python bench/mock_openai.py --port 9001 [--ttft-ms 20 --step-ms 20 --model mock]

Like a real engine it emits in steps: at each tick every running stream gets its next token, one
server-sent event and one HTTP chunk each. The text is a function of the request's body alone, so
that a client can tell a lost, doubled or swapped token. The id of an answer says how long this
worker took to the first token: `chatcmpl-NUMBER-MICROSECONDS`.

The HTTP here is just enough for well-behaved clients and the probes of routers.
"""

import argparse
import asyncio
import json
import time
from hashlib import shake_128
from typing import cast

CREATED_S = 1_700_000_000


def text_for(body: bytes, tokens: int) -> bytes:
    """Return the whole answer to a request: `tokens` words of seven characters each."""
    return b"".join(tokens_for(body, tokens))


def tokens_for(body: bytes, tokens: int) -> list[bytes]:
    """Return the answer token by token; only the prompt counts, not its JSON."""
    prompt = json.dumps(json.loads(body)["messages"], sort_keys=True).encode()
    drawn = memoryview(shake_128(prompt).digest(2 * tokens)).cast("H")
    return [b" w%05d" % number for number in drawn]


class Stream:
    """One answer under way."""

    __slots__ = ("connection", "head", "position", "received_s", "tail", "tokens")

    def __init__(self, connection: "MockConnection", body: bytes, limit: int) -> None:
        self.connection = connection
        self.received_s = time.monotonic()
        self.tokens = tokens_for(body, limit)
        self.position = 0
        self.head = self.tail = b""


class Engine:
    """Steps all streams together, every `step_s`."""

    def __init__(self, model: str, ttft_s: float, step_s: float) -> None:
        self.model = model.encode()
        self.ttft_s = ttft_s
        self.step_s = step_s
        self.streams: list[Stream] = []
        self.served = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def add(self, stream: Stream) -> None:
        """Let a stream join the next step that begins after its time to first token."""
        self.streams.append(stream)
        if self._timer is None:
            self._due_s = self._loop.time() + self.step_s
            self._timer = self._loop.call_at(self._due_s, self._step)

    def _step(self) -> None:
        now_s = time.monotonic()
        self.streams = [stream for stream in self.streams if self._advance(stream, now_s)]
        self._timer = None
        if self.streams:
            self._due_s = max(self._due_s + self.step_s, self._loop.time())
            self._timer = self._loop.call_at(self._due_s, self._step)

    def _advance(self, stream: Stream, now_s: float) -> bool:
        transport, position = stream.connection.transport, stream.position
        if transport is None or transport.is_closing():
            return False
        if position == 0:
            if now_s - stream.received_s < self.ttft_s:
                return True
            transport.write(STREAM_HEAD + self._first(stream, now_s))
        elif position < len(stream.tokens) - 1:
            transport.write(stream.head + stream.tokens[position] + stream.tail)
        else:
            last = _event(stream.head, stream.tokens[position], b'"length"')
            transport.write(last + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            stream.connection.next_request()
            return False
        stream.position = position + 1
        return True

    def _first(self, stream: Stream, now_s: float) -> bytes:
        """Return the first events; prepare what all the others have in common."""
        self.served += 1
        took_us = round((now_s - stream.received_s) * 1e6)
        opening = (
            b'data: {"id":"chatcmpl-%d-%d","object":"chat.completion.chunk","created":%d,'
            b'"model":"%b","choices":[{"index":0,"delta":{'
        ) % (self.served, took_us, CREATED_S, self.model)
        role = opening + b'"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
        before, after = opening + b'"content":"', b'"},"logprobs":null,"finish_reason":null}]}\n\n'
        size = len(before) + len(stream.tokens[0]) + len(after)
        stream.head, stream.tail = b"%x\r\n%b" % (size, before), after + b"\r\n"
        return _chunk(role + b"\n\n") + stream.head + stream.tokens[0] + stream.tail


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(head: bytes, token: bytes, finish_reason: bytes) -> bytes:
    before = head.partition(b"\r\n")[2]
    after = b'"},"logprobs":null,"finish_reason":%b}]}\n\n' % finish_reason
    return _chunk(before + token + after)


class MockConnection(asyncio.Protocol):
    """One client: requests with a content length, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self.transport: asyncio.Transport | None = None
        self._engine = engine
        self._buffer = bytearray()
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.transport = None

    def data_received(self, data: bytes) -> None:
        """Collect, and serve what is whole."""
        self._buffer += data
        if not self._busy:
            self.next_request()

    def next_request(self) -> None:
        """Serve the next request of the buffer, if it is whole."""
        self._busy = False
        head, blank, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not blank:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if len(rest) < length:
            return
        self._buffer = bytearray(rest[length:])
        self._serve(head.split(b" ", 2)[1], rest[:length])

    def _serve(self, path: bytes, body: bytes) -> None:
        model = self._engine.model.decode()
        if path.startswith(b"/v1/chat/completions"):
            request = json.loads(body)
            self._busy = True
            self._engine.add(Stream(self, body, int(request.get("max_tokens", 64))))
        elif path.startswith(b"/v1/models"):
            card = {"id": model, "object": "model", "created": CREATED_S, "owned_by": "mock"}
            self._answer({"object": "list", "data": [card]})
        else:  # health, version and server information, as routers ask for them
            self._answer({"status": "ok", "version": "0", "model_path": model, "model_id": model})

    def _answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        if self.transport is not None:
            self.transport.write(head % len(data) + data)
        self.next_request()


async def serve(port: int, model: str, ttft_s: float, step_s: float) -> None:
    """Serve until cancelled."""
    engine = Engine(model, ttft_s, step_s)
    server = await asyncio.get_running_loop().create_server(
        lambda: MockConnection(engine), "127.0.0.1", port
    )
    print(f"mock listens on 127.0.0.1:{port}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="mock")
    parser.add_argument("--ttft-ms", type=float, default=20.0, help="shortest time to first token")
    parser.add_argument("--step-ms", type=float, default=20.0, help="between two tokens")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.model, given.ttft_ms / 1000, given.step_ms / 1000))


if __name__ == "__main__":
    main()
