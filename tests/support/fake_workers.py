"""Workers in the test's own process that do as they are told, fail when they are told, and
remember everything; and a gateway in front of them.

An answer of `max_tokens` tokens reads "t0 t1 t2 …", whoever computes it, so that a lost, doubled
or swapped token shows in the text.
"""

import asyncio
import hashlib
import json
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from epd.vocabulary import Role
from epd.wire.messages import (
    Api,
    Completed,
    Description,
    EcHandle,
    Encode,
    Failure,
    FailureKind,
    GatewayFrame,
    Generate,
    KvHandle,
    Load,
    Outcome,
    Phase,
    Prefilled,
    Submit,
    WorkerFrame,
)
from epd.wire.service import SERVER_OPTIONS, add_worker_service

ENCODE = "encode"
HANG = "hang"
DIE = "die"
DEFAULT_TOKENS = 5
LEASE_MS = 600_000


@dataclass
class Fault:
    """What goes wrong once: in which work, after how many of this call's tokens, and how."""

    work: Phase | str
    how: FailureKind | str
    after_tokens: int = 0
    status: int = 0
    body: bytes = b""


@dataclass
class FakeWorker:
    """One worker. Attributes may be changed while it runs."""

    name: str
    role: Role
    compatibility_hash: str = "h1"
    pixels_once: bool = True
    multimodal: bool = True
    ready: bool = True
    answers: bool = True
    takes_new_work: bool = True
    load: Load = field(default_factory=Load)
    faults: list[Fault] = field(default_factory=list)
    submits: list[Submit] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    kv: set[str] = field(default_factory=set)
    ec: list[str] = field(default_factory=list)
    deaf: bool = False
    """Releases that come are lost."""
    incarnation: int = 0
    address: str = ""
    peers: "dict[str, FakeWorker]" = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it to hold every answer before its next token."""

    def __post_init__(self) -> None:
        self.gate.set()
        self._server: grpc.aio.Server | None = None
        self._load_changed = asyncio.Event()

    # --- its life ---

    async def start(self) -> None:
        self.incarnation += 1
        await self.listen()

    async def listen(self) -> None:
        """Be reachable (again); the process is the one that it was."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_worker_service(self._server, self)
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def cut_off(self) -> None:
        """End every connection and take none, and keep what is kept."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def die(self) -> None:
        await self.cut_off()
        self.kv.clear()
        self.ec.clear()

    # --- what tests ask ---

    def works(self, kind: Phase | type[Encode]) -> list[Any]:
        """Return the encodes, or the generations of one phase, in the order they came."""
        found = [submit.work for submit in self.submits]
        if kind is Encode:
            return [work for work in found if isinstance(work, Encode)]
        return [work for work in found if isinstance(work, Generate) and work.phase is kind]

    @property
    def phases(self) -> list[str]:
        return [
            ENCODE if isinstance(submit.work, Encode) else submit.work.phase.name.lower()
            for submit in self.submits
        ]

    # --- the service ---

    async def describe(self, request: None, context: Any) -> Description:
        if not self.answers:
            await asyncio.Event().wait()
        return Description(
            worker_id=self.name,
            incarnation=str(self.incarnation),
            model="fake",
            engine="fake",
            compatibility_hash=self.compatibility_hash,
            ready=self.ready,
            multimodal=self.multimodal,
            pixels_once=self.pixels_once,
            max_model_len=1000,
            max_images=8,
        )

    async def watch_load(self, interval_ms: int, context: Any) -> AsyncIterator[Load]:
        while True:
            # Before the report: one that comes while it is being sent must not be forgotten.
            self._load_changed.clear()
            yield self.load
            await self._load_changed.wait()

    def report(self, load: Load) -> None:
        self.load = load
        self._load_changed.set()

    async def session(self, frames: AsyncIterator[GatewayFrame], context: Any) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        lock = asyncio.Lock()

        async def write(frame: WorkerFrame) -> None:
            async with lock:
                await context.write(frame)

        try:
            async for frame in frames:
                for submit in frame.submits:
                    self.submits.append(submit)
                    serve = self._serve(submit, write)
                    tasks[submit.stream] = asyncio.ensure_future(serve)
                for stream in frame.cancels:
                    self.cancels.append(stream)
                    tasks[stream].cancel()
                if not self.deaf:
                    self._release(frame)
        finally:
            for task in tasks.values():
                task.cancel()

    def _release(self, frame: GatewayFrame) -> None:
        self.kv.difference_update(frame.release_kv)
        for identifier in frame.release_ec:
            if identifier in self.ec:
                self.ec.remove(identifier)

    # --- its work ---

    async def _serve(self, submit: Submit, write: Any) -> None:
        work = submit.work
        kind = ENCODE if isinstance(work, Encode) else work.phase
        fault = next((fault for fault in self.faults if fault.work == kind), None)
        if fault is not None:
            self.faults.remove(fault)
        if isinstance(work, Encode):
            if fault is not None:
                await self._fail(submit, fault, write)
            else:
                await write(
                    WorkerFrame(outcomes=[Outcome(submit.stream, self._encode(work), 1000)])
                )
            return
        if fault is not None and fault.after_tokens == 0:
            await self._fail(submit, fault, write)
            return
        if not self._take_handles(work):
            lost = Failure(FailureKind.HANDOFF_LOST, "it is not there")
            await write(WorkerFrame(outcomes=[Outcome(submit.stream, lost)]))
            return
        answer = _Answer(work)
        sent = 0
        while not answer.ended:
            if fault is not None and sent == fault.after_tokens:
                await self._fail(submit, fault, write)
                return
            await self.gate.wait()
            payload, ids = answer.step()
            sent += 1
            frame = WorkerFrame([submit.stream], [len(payload)], [1], payload, ids)
            if answer.ended or work.phase is Phase.PREFILL:
                frame.outcomes = [self._outcome(submit, answer)]
                await write(frame)
                return
            await write(frame)

    def _take_handles(self, work: Generate) -> bool:
        """Take the KV cache, or look at the embeddings; tell whether they are where they belong."""
        if work.kv is not None:
            owner = self.peers[work.kv.worker_id]
            there = work.kv.identifier in owner.kv
            owner.kv.discard(work.kv.identifier)
            return there
        handles = [image.ec for image in work.images if image.ec is not None]
        return all(handle.identifier in self.peers[handle.worker_id].ec for handle in handles)

    def _encode(self, work: Encode) -> EcHandle:
        assert work.image.content
        identifier = hashlib.sha256(work.image.content).hexdigest()[:8]
        self.ec.append(identifier)
        metadata = b'{"grid":1}' if self.pixels_once else b""
        return EcHandle(
            self.name, self.compatibility_hash, identifier, metadata, b"{}", 10, 1, LEASE_MS
        )

    def _outcome(self, submit: Submit, answer: "_Answer") -> Outcome:
        if answer.ended:
            return Outcome(submit.stream, Completed(7, answer.total), 2000)
        identifier = f"{submit.request_id}/{submit.stream}"
        self.kv.add(identifier)
        kv = KvHandle(self.name, self.compatibility_hash, identifier, b"{}", 10, 7, LEASE_MS)
        return Outcome(submit.stream, Prefilled(kv, b"rendered"), 2000)

    async def _fail(self, submit: Submit, fault: Fault, write: Any) -> None:
        if fault.how == HANG:
            await asyncio.Event().wait()
        if fault.how == DIE:
            await self.die()
            return
        assert isinstance(fault.how, FailureKind)
        failure = Failure(fault.how, "on purpose", fault.status, fault.body)
        await write(WorkerFrame(outcomes=[Outcome(submit.stream, failure, 100)]))


class _Answer:
    """The answer to one request, from the token after those the client has had."""

    def __init__(self, work: Generate) -> None:
        body = json.loads(work.body)
        self.total = body.get("max_tokens") or DEFAULT_TOKENS
        self._work = work
        self._next = len(work.emitted_token_ids) // 4
        had = array("I", work.emitted_token_ids).tolist()
        assert had == list(range(self._next)), "the tokens so far are not those of the answer"
        assert self._next < self.total

    @property
    def ended(self) -> bool:
        return self._next >= self.total

    def step(self) -> tuple[bytes, bytes]:
        index = self._next
        self._next += 1
        ids = array("I", [index]).tobytes()
        if not self._work.stream:
            return (self._whole() if self.ended else b""), ids
        delta = {"content": f"t{index} "}
        if index == 0:
            delta["role"] = "assistant"
        choice = {"index": 0, "delta": delta, "finish_reason": "length" if self.ended else None}
        data = (
            b"data: "
            + json.dumps({**self._head("chat.completion.chunk"), "choices": [choice]}).encode()
            + b"\n\n"
        )
        if self.ended:
            data += b"data: [DONE]\n\n"
        return b"%x\r\n%b\r\n" % (len(data), data), ids

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._work.response_id,
            "object": kind,
            "created": self._work.created_s,
            "model": "fake",
        }

    def _whole(self) -> bytes:
        text = text_of(self.total)
        chat = self._work.api is Api.CHAT_COMPLETIONS
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": "length"}
        return json.dumps({**self._head("chat.completion"), "choices": [choice]}).encode()


def text_of(tokens: int) -> str:
    """Return the text of an answer of so many tokens."""
    return "".join(f"t{index} " for index in range(tokens))
