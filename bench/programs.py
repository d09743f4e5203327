"""Our programs and others as processes of a measurement, each on the cores it is given.

Everything that `Programs` started ends with it, and with us, however we end.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

BENCH = Path(__file__).resolve().parent
READY_WITHIN_S = 120.0
_LISTENS = re.compile(r"listen(?:s|ing) on \S+?:(\d+)(?:, admin on \S+?:(\d+))?")


class MeasurementError(Exception):
    """A measurement cannot be made here; the message is one line for the user."""


def cores() -> tuple[set[int], set[int]]:
    """Return the core of what is measured, and those of load and workers."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, set(usable[1:]) or {usable[0]}


class Program:
    """One process with its log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        cpus: set[int],
        *,
        with_input: bool = False,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.started_s = time.monotonic()
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "EPD_LOG_LEVEL": "info"},
                preexec_fn=lambda: _settle(cpus),
            )
        self.pid = self._popen.pid
        self.process = psutil.Process(self.pid)

    def wait_for(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait until `holds` returns something true, and return it."""
        limit_s = time.monotonic() + READY_WITHIN_S
        while not (found := holds()):
            if self._popen.poll() is not None:
                raise MeasurementError(f"{self.name} ended: {self.last_line()}")
            if time.monotonic() > limit_s:
                raise MeasurementError(
                    f"{self.name}: no {what} within {READY_WITHIN_S:.0f} s: {self.last_line()}"
                )
            time.sleep(0.01)
        return found

    def ports(self) -> list[int]:
        """Return the ports that it says it listens on, once it does."""
        found = self.wait_for(lambda: _LISTENS.search(self.log.read_text()), "port")
        return [int(port) for port in found.groups() if port]

    def last_line(self) -> str:
        """Return the end of its log."""
        return (self.log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._popen.poll() is None

    def tell(self, text: str) -> None:
        """Write to its standard input."""
        if self._popen.stdin is not None:
            self._popen.stdin.write(text.encode())
            self._popen.stdin.flush()

    def wait(self) -> int:
        """Wait for its end and return its status."""
        return self._popen.wait()

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask it to end, and insist."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        self._popen.wait()
        if self._popen.stdin is not None:
            self._popen.stdin.close()


def _settle(cpus: set[int]) -> None:
    """Run in the child: take its cores, and end when we do."""
    os.sched_setaffinity(0, cpus)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


class Programs:
    """The processes of one measurement, and a folder for their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Program] = []

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        cpus: set[int],
        *,
        with_input: bool = False,
    ) -> Program:
        """Start a process; `with_input`, `Program.tell` reaches it."""
        program = Program(name, command, self.folder, cpus, with_input=with_input)
        self._running.append(program)
        return program

    def stop(self, *programs: Program) -> None:
        """End these, all at once; without any: everything, last first."""
        for program in programs or self._running[::-1]:
            program.stop()
        self._running = [p for p in self._running if programs and p not in programs]


@contextmanager
def programs() -> Iterator[Programs]:
    """Give a `Programs` whose processes and files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="epd-bench-") as folder:
        running = Programs(Path(folder))
        try:
            yield running
        finally:
            running.stop()


def get_json(url: str) -> Any:
    """Return the JSON at a URL of this machine; None while nobody answers."""
    try:
        return httpx.get(url, trust_env=False, timeout=10).json()
    except (httpx.TransportError, ValueError):
        return None


def get_text(url: str) -> str:
    """Return the text at a URL of this machine."""
    return httpx.get(url, trust_env=False, timeout=10).text


def memory_mib(pid: int) -> dict[str, float]:
    """Return resident memory now and at its peak, and the share that is this process's alone."""
    status = Path(f"/proc/{pid}/status").read_text()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()

    def mib(text: str, name: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    return {
        "rss": mib(status, "VmRSS"),
        "peak_rss": mib(status, "VmHWM"),
        "pss": mib(rollup, "Pss"),
    }


def run_load(programs: Programs, cpus: set[int], **options: Any) -> dict[str, Any]:
    """Run `load.py` with these options (lists repeat) and return its figures."""
    figures: dict[str, Any] = run_script(programs, cpus, "load.py", **options)
    return figures


def run_direct_load(programs: Programs, cpus: set[int], **options: Any) -> dict[str, float]:
    """Run `direct_load.py` with these options; return milliseconds by response id."""
    took_ms: dict[str, float] = run_script(programs, cpus, "direct_load.py", **options)
    return took_ms


def run_script(programs: Programs, cpus: set[int], script: str, **options: Any) -> Any:
    """Run a script of this folder with these options and `--out`; return the JSON it wrote."""
    out = programs.folder / f"{script}.json"
    command: list[str | Path] = [sys.executable, BENCH / script, "--out", out]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            command += [f"--{name.replace('_', '-')}", str(each)]
    load = programs.start(script, command, cpus)
    if load.wait() != 0:
        raise MeasurementError(f"{script} failed: {load.last_line()}")
    programs.stop(load)
    return json.loads(out.read_text())
