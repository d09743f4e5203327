"""Overwrites what an engine has kept for others: whoever takes it must give another answer."""

import os
from pathlib import Path
from typing import Any

from epd_worker.engine.vllm import VllmEngine


def poison_kv_caches(worker: Any) -> None:
    """Overwrite every KV block; runs inside a vLLM worker."""
    for cache in worker.model_runner.kv_caches:
        cache.fill_(0.25)


def poison_embeddings(engine: VllmEngine) -> None:
    """Overwrite the whole encoder-cache arena of an engine, through its nameless file."""
    processes = engine._runtime.engine.engine_core.resources.engine_manager.processes
    for descriptor in Path(f"/proc/{processes[0].pid}/fd").iterdir():
        if "vllm_ec_" in os.readlink(descriptor):
            with descriptor.open("r+b") as arena:
                size_bytes = os.fstat(arena.fileno()).st_size
                arena.write(b"\x3f" * size_bytes)
            return
    raise AssertionError("the engine has no arena")
