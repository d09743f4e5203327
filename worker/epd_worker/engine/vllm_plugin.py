"""vLLM's `general_plugins` entry point: loaded by vLLM itself in each of its processes.

Installed files are never edited. What a CPU machine needs (NIXL without its spinning progress
thread) is applied on CPU only; what our engine adds to the engine core (`vllm_core`) everywhere.
torchvision's operators cannot wait for a vLLM plugin: `torchvision_cpu` is loaded by torch. A CPU
machine also looks at a model's class without a process of its own.
Written for the vLLM that the lock files pin.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any

from epd.vocabulary import Env
from epd_worker.engine.vllm_patching import around

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Apply everything once per process; called by `vllm.plugins.load_general_plugins`.

    Without our worker's mark in the environment vLLM stays as it is, even if this is installed.
    """
    if os.environ.get(Env.VLLM_PLUGIN) != "1":
        return
    if _is_model_inspection():
        return
    if multiprocessing.parent_process() is not None:
        _die_with_parent()
    from vllm.platforms import current_platform

    from epd_worker.engine import vllm_core

    if current_platform.is_cpu():
        _stop_nixl_progress_thread()
        _inspect_models_here()
    vllm_core.apply()


def _die_with_parent() -> None:
    """Ask Linux to kill this engine process with the worker that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_model_inspection() -> bool:
    """Tell vLLM's short-lived subprocess that only looks at a model class."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "vllm.model_executor.models.registry"


def _inspect_models_here() -> None:
    """Look at a model's class in this process, which will import it in any case.

    vLLM starts a process for that, to keep CUDA out of this one, and remembers what it saw below
    HOME. A pod begins with an empty HOME, and the process took it 10 s.
    """
    from vllm.model_executor.models import registry

    def inspect(_: Any, model: Any) -> Any:
        return registry._ModelInfo.from_model_cls(model.load_model_cls())

    around(registry._LazyRegisteredModel, "inspect_model_cls")(inspect)


def _stop_nixl_progress_thread() -> None:
    """Default NIXL agents to no progress thread: it burns a whole core per agent, idle or not.

    Without the thread an agent advances inside API calls, and vLLM makes those at every step for
    as long as a transfer or a lease is open.
    """
    import nixl._api as nixl_api

    stock = nixl_api.nixl_agent_config
    if getattr(stock, "epd_no_progress_thread", False):
        return

    def without_progress_thread(*args: object, **kwargs: object) -> object:
        kwargs.setdefault("enable_prog_thread", False)
        return stock(*args, **kwargs)

    without_progress_thread.epd_no_progress_thread = True  # type: ignore[attr-defined]
    nixl_api.nixl_agent_config = without_progress_thread
