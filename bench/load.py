"""An open-loop load on an OpenAI-compatible endpoint, every streamed answer checked.

    python bench/load.py --url http://127.0.0.1:8000 --model NAME --rate 300 --duration-s 10

Arrivals are Poisson and do not wait for answers; connections are kept alive and reused. An answer
is *incomplete* without its end, *altered* if its text is not the expected one (`--expect`), an
*error* if its status is not 200, its connection breaks or it takes over `--timeout-s`. One JSON
object goes to standard output (or `--out`). Times begin when a request is written;
`dispatch_lag_ms` tells how late that was. CPU is what `--pid NAME=PID` used between the end of the
warm-up and the end of the sending, divided by the answers that ended in that time.

All answers are read as they come unless `--eager-every N` is given: then all but every N-th are
read, after their first token, four times a second, which costs this side much less; gaps and
durations are those of the eager ones.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import uvloop
from connection import Connection, Sample
from prompts import Exchange, Shape, for_mock, for_simulated, unchecked
from statistic import distribution

DISTINCT_REQUESTS = 2048


class Load:
    """One run."""

    def __init__(self, given: argparse.Namespace, exchanges: Sequence[Exchange]) -> None:
        """Plan it."""
        self._given = given
        self._exchanges = exchanges
        self._host, _, port = given.url.removeprefix("http://").rstrip("/").partition(":")
        self._port = int(port or 80)
        self.head = (
            f"POST {given.path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            "Content-Type: application/json\r\nAccept: */*\r\nContent-Length: %d\r\n\r\n"
        ).encode()
        self.paused: deque[tuple[float, Connection, Sample]] = deque()
        self.samples: list[Sample] = []
        self.peak_streams = 0
        self._open = 0
        self._all_ended = asyncio.Event()
        self._idle: list[Connection] = []
        self._in_flight: dict[Sample, Connection | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched = {name: psutil.Process(int(pid)) for name, pid in given.pid}
        self._rss_mib: dict[str, float] = {}

    async def run(self) -> dict[str, Any]:
        """Send, wait for the answers, and return the figures."""
        given, loop = self._given, asyncio.get_running_loop()
        rng = random.Random(given.seed)
        ticker = loop.create_task(self._resume_paused())
        watcher = loop.create_task(self._watch_memory())
        start_s = time.monotonic()
        at_s, index = 0.0, 0
        before: dict[str, float] | None = None
        window_start_s = 0.0
        while (at_s := at_s + rng.expovariate(given.rate)) < given.duration_s:
            due_s = start_s + at_s
            if due_s > time.monotonic():
                await asyncio.sleep(due_s - time.monotonic())
            timed = at_s >= given.warmup_s
            if timed and before is None:
                before, window_start_s = self._cpu_s(), time.monotonic()
            eager = index % given.eager_every == 0
            exchange = self._exchanges[index % len(self._exchanges)]
            self._send(Sample(exchange, due_s, timed=timed, eager=eager))
            index += 1
        window_end_s, after = time.monotonic(), self._cpu_s()
        await self._drain()
        ticker.cancel()
        watcher.cancel()
        return self._figures(window_start_s, window_end_s, before or after, after)

    def finish(self, connection: Connection, sample: Sample) -> None:
        """Take a request back that has ended."""
        self._end(sample)
        if connection.usable:
            self._idle.append(connection)

    def _end(self, sample: Sample) -> None:
        self._in_flight.pop(sample, None)
        self._open -= 1
        if not self._in_flight:
            self._all_ended.set()

    def _send(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._in_flight[sample] = None
        self._open += 1
        self._all_ended.clear()
        self.peak_streams = max(self.peak_streams, self._open)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._in_flight[sample] = connection
                connection.send(sample)
                return
        task = asyncio.get_running_loop().create_task(self._connect(sample))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, sample: Sample) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), self._host, self._port
            )
        except OSError:
            sample.verdict = "cannot connect"
            self._end(sample)
            return
        self._in_flight[sample] = connection
        connection.send(sample)

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._given.timeout_s):
                await self._all_ended.wait()
        for sample, connection in list(self._in_flight.items()):
            if connection is not None:
                connection.abort()
            sample.verdict = "timeout"
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0.05)

    async def _resume_paused(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            now_s = time.monotonic()
            while self.paused and self.paused[0][0] <= now_s:
                _, connection, sample = self.paused.popleft()
                connection.resume(sample)

    async def _watch_memory(self) -> None:
        while True:
            for name, process in self._watched.items():
                mib = process.memory_info().rss / 2**20
                self._rss_mib[name] = max(mib, self._rss_mib.get(name, 0.0))
            await asyncio.sleep(0.5)

    def _cpu_s(self) -> dict[str, float]:
        used = {name: cpu_s(process) for name, process in self._watched.items()}
        own = resource.getrusage(resource.RUSAGE_SELF)
        return {**used, "load": own.ru_utime + own.ru_stime}

    def _figures(
        self, start_s: float, end_s: float, before: dict[str, float], after: dict[str, float]
    ) -> dict[str, Any]:
        timed = [sample for sample in self.samples if sample.timed]
        good = [sample for sample in timed if sample.verdict == "ok"]
        eager = [sample for sample in good if sample.eager]
        done = sum(start_s <= sample.ended_s < end_s for sample in self.samples)
        verdicts: dict[str, int] = {}
        for sample in self.samples:
            verdicts[sample.verdict] = verdicts.get(sample.verdict, 0) + 1
        faults = {name: number for name, number in verdicts.items() if name != "ok"}
        gaps_s = (
            right - left
            for sample in eager
            for left, right in zip(
                [sample.first_s, *sample.arrivals_s], sample.arrivals_s, strict=False
            )
        )
        window_s = end_s - start_s
        return {
            "offered_per_s": self._given.rate,
            "window_s": window_s,
            "sent": len(self.samples),
            "ok": verdicts.get("ok", 0),
            "faults": faults,
            "done_per_s": done / window_s,
            "peak_streams": self.peak_streams,
            "ttft_ms": distribution([1e3 * (s.first_s - s.sent_s) for s in good]),
            "gap_ms": distribution([1e3 * gap_s for gap_s in gaps_s]),
            "duration_ms": distribution([1e3 * (s.ended_s - s.sent_s) for s in eager]),
            "dispatch_lag_ms": distribution([1e3 * (s.sent_s - s.due_s) for s in good]),
            "processes": {
                name: {
                    "cores": (after[name] - before[name]) / window_s,
                    "cpu_us_per_request": (after[name] - before[name]) / max(done, 1) * 1e6,
                    "rss_mib_max": self._rss_mib.get(name),
                }
                for name in after
            },
            "ttft_ms_by_id": {s.identifier: 1e3 * (s.first_s - s.sent_s) for s in good},
        }


def cpu_s(process: psutil.Process) -> float:
    """Return user and system time of a process and its children, finished ones included."""
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        times = member.cpu_times()
        total += times.user + times.system
    ended = process.cpu_times()
    return total + ended.children_user + ended.children_system


def _pid(text: str) -> tuple[str, str]:
    name, _, pid = text.rpartition("=")
    return name or pid, pid


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--url", required=True, help="http://HOST:PORT")
    add("--path", default="/v1/chat/completions")
    add("--model", required=True)
    add("--rate", type=float, default=10.0, help="requests per second")
    add("--duration-s", type=float, default=10.0, help="of the sending, warm-up included")
    add("--warmup-s", type=float, default=2.0, help="not timed; longer than one answer takes")
    add("--timeout-s", type=float, default=30.0, help="for the last answers to end")
    add("--prompt-words", type=int, default=200)
    add("--max-tokens", type=int, default=64)
    add("--image-kib", type=int, default=0, help="an image of this size in every request")
    add("--expect", choices=("simulated", "mock", "any"), default="any")
    add("--eager-every", type=int, default=1)
    add("--seed", type=int, default=1)
    add("--pid", type=_pid, action="append", default=[], metavar="NAME=PID")
    add("--out", type=Path)
    return parser.parse_args(argv)


async def run(given: argparse.Namespace) -> dict[str, Any]:
    """Prepare the requests and run the load."""
    shape = Shape(given.model, given.prompt_words, given.max_tokens, given.image_kib, given.seed)
    count = min(DISTINCT_REQUESTS, 1 + round(given.rate * given.duration_s))
    if given.expect == "simulated":
        exchanges = await for_simulated(shape, count)
    else:
        exchanges = (for_mock if given.expect == "mock" else unchecked)(shape, count)
    return await Load(given, exchanges).run()


def main() -> None:
    """Run one load and write its figures."""
    given = arguments()
    gc.disable()  # a run is short, and a collection would be told as the gateway's delay
    figures = json.dumps(uvloop.run(run(given)))
    if given.out:
        given.out.write_text(figures)
    else:
        sys.stdout.write(figures + "\n")


if __name__ == "__main__":
    main()
