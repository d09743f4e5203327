"""What an HTTP front costs per streamed request: ours beside uvicorn, same streams, same load.

    python bench/http_front.py LOADGEN [--rates 300,700] [--repeats 3] [--tick-ms 20]

Each front runs alone on one core in a process of its own; the load generator, an `llmload` (any
open-loop client with its flags will do), has the other cores. Streams come from a clock inside the
server process that hands every open stream its next chunk at each tick, as a worker's engine step
would: there is no upstream, no validation, no placement. So the figures compare fronts; they are
not what a gateway costs. CPU is user and system time of the process (getrusage) between the
start and the end of the load, divided by the requests answered in it; the table shows medians.

- ours: the gateway's front; the clock writes to its streams.
- uvicorn-direct: uvicorn, by-passed per token: the clock writes to the transport behind its back.
- uvicorn-asgi: uvicorn as meant: one queue, wake-up and ASGI send per token.

The table goes to standard output, the figures to build/bench/http_front.json.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENS = 64
FRONTS = ("ours", "uvicorn-direct", "uvicorn-asgi")
FIGURES = (
    "cpu_us_per_request",
    "user_us_per_request",
    "kernel_us_per_request",
    "max_rss_mib",
)
SSE = (b"text/event-stream; charset=utf-8", b"no-cache")


def event(delta: str, finish: str) -> bytes:
    """Return one chat completion chunk as a server-sent event."""
    return (
        'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk",'
        '"created":1700000000,"model":"mock","choices":[{"index":0,'
        f'"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]}}\n\n'
    ).encode()


EVENTS = [event(f'{{"content":" tok{i:02}"}}', "null") for i in range(TOKENS - 1)]
EVENTS.append(event('{"content":" last"}', '"stop"') + b"data: [DONE]\n\n")


class Clock:
    """Hands every open stream its next chunk at each tick, all in one callback."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self.streams: dict[int, tuple[Callable[[bytes], None], Callable[[bytes], None]]] = {}
        self.next_token: dict[int, int] = {}
        self.opened = 0
        self.chunks = [b"%x\r\n%b\r\n" % (len(text), text) for text in EVENTS]
        asyncio.get_running_loop().call_later(tick_s, self.tick)

    def open(self, write: Callable[[bytes], None], end: Callable[[bytes], None]) -> None:
        """Start a stream; `write` takes each chunk but the last, which `end` takes."""
        self.opened += 1
        self.streams[self.opened] = (write, end)
        self.next_token[self.opened] = 0

    def tick(self) -> None:
        """Emit one chunk per stream."""
        asyncio.get_running_loop().call_later(self.tick_s, self.tick)
        for number, (write, end) in list(self.streams.items()):
            token = self.next_token[number]
            if token == TOKENS - 1:
                del self.streams[number], self.next_token[number]
                end(self.chunks[token])
            else:
                self.next_token[number] = token + 1
                write(self.chunks[token])

    def usage(self) -> bytes:
        """Return what this process has used so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return json.dumps(
            {
                "user_s": used.ru_utime,
                "kernel_s": used.ru_stime,
                "max_rss_mib": used.ru_maxrss / 1024,
                "requests": self.opened,
            }
        ).encode()


async def serve_ours(port: int, tick_s: float) -> None:
    """Serve with the gateway's own front."""
    from epd_gateway.http import JSON_HEADERS, HttpServer, Request

    clock = Clock(tick_s)

    async def handler(request: Request) -> None:
        response = request.response
        if request.path == "/usage":
            response.send(200, JSON_HEADERS, clock.usage())
            return
        done = asyncio.get_running_loop().create_future()
        request.on_disconnect(lambda: done.done() or done.set_result(b""))
        response.start_stream()
        clock.open(response.write_preframed, lambda last: done.done() or done.set_result(last))
        response.end(await done)

    await HttpServer(handler).start("127.0.0.1", port)
    await asyncio.Event().wait()


async def serve_uvicorn(port: int, tick_s: float, direct: bool) -> None:
    """Serve with uvicorn; `direct` by-passes ASGI per token."""
    import uvicorn

    clock = Clock(tick_s)
    headers = list(zip((b"content-type", b"cache-control"), SSE, strict=True))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        if scope["path"] == "/usage":
            await send({**start, "headers": []})
            await send({"type": "http.response.body", "body": clock.usage()})
            return
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        await send(start)
        if direct:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            clock.open(send.__self__.transport.write, queue.put_nowait)
            await queue.get()
        else:
            clock.open(queue.put_nowait, queue.put_nowait)
            for text in EVENTS[:-1]:
                await queue.get()
                await send({"type": "http.response.body", "body": text, "more_body": True})
            await queue.get()
        await send({"type": "http.response.body", "body": EVENTS[-1]})

    config = uvicorn.Config(
        app, port=port, http="httptools", lifespan="off", log_level="warning", access_log=False
    )
    await uvicorn.Server(config).serve()


def serve(front: str, port: int, tick_s: float, cpu: int) -> None:
    """Run one front on one core until killed."""
    import uvloop

    os.sched_setaffinity(0, {cpu})
    if front == "ours":
        uvloop.run(serve_ours(port, tick_s))
    else:
        uvloop.run(serve_uvicorn(port, tick_s, direct=front == "uvicorn-direct"))


def usage(port: int) -> dict[str, float]:
    """Ask a server what it has used; wait for it to come up."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/usage") as answer:
                return json.loads(answer.read())
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"the server on port {port} did not come up")


def measure(arguments: argparse.Namespace, front: str, rate: int, port: int) -> dict[str, Any]:
    """Return the figures of one front under one rate."""
    cpus = sorted(os.sched_getaffinity(0))
    serve_it = [sys.executable, __file__, "--serve", front, "--port", str(port)]
    serve_it += ["--tick-ms", str(arguments.tick_ms), "--cpu", str(cpus[0])]
    server = subprocess.Popen(serve_it)
    try:
        before = usage(port)
        load = [arguments.loadgen, "-url", f"http://127.0.0.1:{port}", "-rate", str(rate)]
        load += ["-duration", f"{arguments.duration_s}s", "-warmup", "1s", "-verify=false"]
        load += ["-max-tokens", str(TOKENS), "-timeout", "30s"]
        done = subprocess.run(
            load,
            stdout=subprocess.PIPE,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, set(cpus[1:] or cpus)),
        )
        after = usage(port)
    finally:
        server.kill()
        server.wait()
    requests = after["requests"] - before["requests"]
    user_us = (after["user_s"] - before["user_s"]) / requests * 1e6
    kernel_us = (after["kernel_s"] - before["kernel_s"]) / requests * 1e6
    return {
        "front": front,
        "rate": rate,
        "requests": requests,
        "cpu_us_per_request": round(user_us + kernel_us),
        "user_us_per_request": round(user_us),
        "kernel_us_per_request": round(kernel_us),
        "max_rss_mib": round(after["max_rss_mib"], 1),
        "load": json.loads(done.stdout),
    }


def middle(runs: list[dict[str, Any]], name: str) -> float:
    """Return the median of one figure."""
    return statistics.median(run[name] for run in runs)


def main() -> None:
    """Measure every front at every rate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("loadgen", nargs="?", help="path of an llmload")
    parser.add_argument("--rates", default="300,700", help="requests per second")
    parser.add_argument("--duration-s", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--tick-ms", type=float, default=20.0, help="between two chunks of a stream"
    )
    parser.add_argument("--fronts", default=",".join(FRONTS))
    parser.add_argument("--serve", choices=FRONTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--cpu", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port, arguments.tick_ms / 1000, arguments.cpu)
        return
    if not arguments.loadgen:
        parser.error("the path of a load generator is needed")
    rows = []
    print("front           rate/s   CPU µs/request   user   kernel   errors   memory MiB")
    for rate in (int(text) for text in arguments.rates.split(",")):
        found: dict[str, list[dict[str, Any]]] = {}
        # Round by round, so that a busy neighbour troubles all fronts alike.
        for front in arguments.fronts.split(",") * arguments.repeats:
            found.setdefault(front, []).append(measure(arguments, front, rate, arguments.port))
        for front, runs in found.items():
            rows += runs
            cpu, user, kernel, memory = (middle(runs, name) for name in FIGURES)
            errors = sum(run["load"]["errors"] for run in runs)
            print(
                f"{front:15} {rate:6} {cpu:16} {user:6} {kernel:8} {errors:8} {memory:12}",
                flush=True,
            )
    target = Path("build/bench/http_front.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
