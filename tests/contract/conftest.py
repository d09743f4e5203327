"""The engines that the contract suite runs against."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_calls import chat, completion
from engine_thread import EngineThread

from epd.wire.messages import Generate
from epd_worker.engine import Engine
from epd_worker.engine.settings import EngineSettings

EngineFactory = Callable[..., Awaitable[Engine]]


ROOT = Path(__file__).parents[2]
VLLM_ARGS = [
    "--max-model-len=2048",
    "--dtype=float32",
    "--enforce-eager",
    "--kv-cache-memory-bytes=67108864",
    "--max-num-seqs=32",
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
]
VLLM_LEASES = {"kv_lease_s": 4.0, "ec_lease_s": 4.0}


@pytest.fixture(params=["simulated", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine_kind(request: pytest.FixtureRequest) -> str:
    """Which engine the test runs against."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where engines would keep what they compile or look up at their start: nothing yet."""
    folder = tmp_path_factory.mktemp("caches")
    for name in ("TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
        os.environ[name] = str(folder / name)
    return folder


@pytest.fixture(scope="session")
def shared_engines(caches: Path) -> Iterator[dict[str, EngineThread]]:
    """Real engines take 10 s to start: the two that every test uses live as long as the session."""
    engines: dict[str, EngineThread] = {}
    yield engines
    for engine in engines.values():
        asyncio.run(engine.close())


@pytest.fixture
async def engine_factory(
    engine_kind: str, shared_engines: dict[str, EngineThread]
) -> AsyncIterator[EngineFactory]:
    """Return started engines of one kind and model; keywords are fields of `EngineSettings`."""
    engines: list[Engine] = []

    async def make(name: str, *, shared: bool = False, **fields: Any) -> Engine:
        if engine_kind == "simulated":
            engine = _simulated(EngineSettings(name, "tiny", served_name="tiny", **fields))
        elif shared and name in shared_engines:
            return shared_engines[name]
        else:
            engine = _vllm(name, fields)
        await engine.start()
        if shared and isinstance(engine, EngineThread):
            shared_engines[name] = engine
        else:
            engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.close()


@pytest.fixture
async def here(engine_factory: EngineFactory) -> Engine:
    """Return one engine."""
    return await engine_factory("here", shared=True)


@pytest.fixture
async def there(engine_factory: EngineFactory) -> Engine:
    """Return a second engine, compatible with `here`."""
    return await engine_factory("there", shared=True)


@pytest.fixture(params=[chat, completion], ids=["chat", "completion"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Generate]:
    """Return the maker of one of the two kinds of requests."""
    maker: Callable[..., Generate] = request.param
    return maker


def _simulated(settings: EngineSettings) -> Engine:
    from epd_worker.engine.simulated import SimulatedEngine

    settings.engine_args.append("time_scale=0.01")
    return SimulatedEngine(settings)


def _vllm(name: str, fields: dict[str, Any]) -> EngineThread:
    from epd_worker.engine.vllm import VllmEngine

    model = ROOT / "build" / "models" / "tiny-qwen3-vl"
    maker = [sys.executable, "-m", "epd_worker.engine.tiny_models", str(model.parent), "qwen3_vl"]
    subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
    fields = VLLM_LEASES | fields
    settings = EngineSettings(
        name, str(model), served_name="tiny", engine_args=list(VLLM_ARGS), **fields
    )
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # lets a test poison a KV cache
    return EngineThread(VllmEngine(settings))
