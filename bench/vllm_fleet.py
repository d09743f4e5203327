"""Workers with real vLLM engines for measurements: tiny models, a process tree each."""

import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from fleet import Fleet
from programs import MeasurementError, Program, Programs, memory_mib
from report import say

from epd_operator import local_ports
from epd_operator.local_commands import WORKER_HOST
from epd_operator.local_ports import WorkerPorts

MODELS = Path(__file__).resolve().parent.parent / "build" / "models"
TINY = MODELS / "tiny-qwen3-vl"
ENGINE_ARGS = ("--dtype=float32", "--enforce-eager", "--max-num-seqs=32")
_KIND = "qwen3_vl"


def missing() -> str | None:
    """Say why vLLM cannot be measured here."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed; `make env` installs it"
    return None


def tiny_model(running: Programs) -> Path:
    """Return the folder of the tiny Qwen3-VL, made if need be."""
    command = [sys.executable, "-m", "epd_worker.engine.tiny_models", str(MODELS), _KIND]
    maker = running.start("tiny-model", command, everywhere())
    if maker.wait() != 0:
        raise MeasurementError(f"the tiny model cannot be made: {maker.last_line()}")
    return TINY


def widened_model(
    running: Programs, name: str, longest_edge: int, **sections: dict[str, Any]
) -> Path:
    """Return a copy of the tiny model's folder with other dimensions, to be loaded as dummy.

    Args:
        running: Whose folder takes it.
        name: The copy's name.
        longest_edge: The most pixels that its processor leaves an image.
        sections: What changes in `text_config` and `vision_config`.
    """
    folder = running.folder / name
    source = tiny_model(running)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    for section, changes in sections.items():
        config[section].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"]["size"]["longest_edge"] = longest_edge
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def everywhere() -> set[int]:
    """Return every core that we may use: engines are not pinned."""
    import os

    return set(os.sched_getaffinity(0))


class VllmFleet(Fleet):
    """Real engines; roles are set once they have started."""

    def start_worker(self, name: str, model: Path, *engine_args: str) -> float:
        """Start one and wait until it is ready; return the seconds that took."""
        self.begin_worker(name, model, *engine_args)
        return self.finish_worker(name)

    def begin_worker(self, name: str, model: Path, *engine_args: str) -> None:
        """Start one, and do not wait."""
        block = local_ports.free_block(local_ports.BLOCK_PORTS, WORKER_HOST)
        ports = WorkerPorts.from_block(block)
        command = [sys.executable, "-m", "epd_worker", "--name", name, "--exit-with-parent"]
        command += ["--listen", f"{WORKER_HOST}:{ports.grpc}", "--served-name", self.model]
        command += ["--engine", "vllm", "--model", str(model)]
        command += ["--kv-side-channel-port", str(ports.kv)]
        command += ["--ec-side-channel-port", str(ports.ec), "--", *ENGINE_ARGS, *engine_args]
        self.workers[name] = self.programs.start(name, command, everywhere())
        self.addresses[name] = f"{WORKER_HOST}:{ports.grpc}"

    def finish_worker(self, name: str) -> float:
        """Wait until a worker is ready; return the seconds since its start."""
        worker = self.workers[name]
        ready = f"{name} is ready"
        worker.wait_for(lambda: ready in worker.log.read_text(errors="replace"), "ready engine")
        took_s = time.monotonic() - worker.started_s
        say(f"{name} is ready after {took_s:.1f} s")
        return took_s


def tree(program: Program) -> list[psutil.Process]:
    """Return a program's process and all that it started."""
    return [program.process, *program.process.children(recursive=True)]


def memory_of(program: Program) -> list[dict[str, Any]]:
    """Return the memory of each process of a worker."""
    found = []
    for process in tree(program):
        title = " ".join(process.cmdline()) or process.name()
        own = process.pid == program.pid
        what = "worker" if own else "engine core" if "EngineCore" in title else "other"
        found.append({"process": what, "title": title[:60], **memory_mib(process.pid)})
    return found


def cpu_share(program: Program, window_s: float) -> float:
    """Return how much of a core a worker uses over the next seconds, all its processes together."""
    before = _cpu_s(program)
    time.sleep(window_s)
    return (_cpu_s(program) - before) / window_s


def _cpu_s(program: Program) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree(program))
