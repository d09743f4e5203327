"""NVIDIA's measured kernel times as measurements: the one reader of aiconfigurator-core.

It sums what single kernels take, as measured on the GPU (or estimated, where it has no
measurement). What it leaves out: the CPU's share, scheduling, image decoding, handoffs.
"""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from epd_cli.failures import CommandError
from epd_cli.profile_fit import Measured
from epd_cli.profile_sizes import Sizes

PACKAGE: Final = "aiconfigurator-core"
ENGINE_VERSION: Final = "0.24.0"
"""Of vLLM's kernels; later ones are not in the package's tables."""

_GIB: Final = 2**30
_BYTES_PER_NUMBER: Final = 2  # bf16
_MEMORY_SHARE: Final = 0.9
_OUTPUT: Final = 64  # of requests that are only prefilled; any


@dataclass(frozen=True, slots=True)
class Kernels:
    """The times of one model on one GPU.

    Attributes:
        measured: As if they had been measured on a worker.
        kv_tokens: Tokens of KV cache beside the weights in nine tenths of the memory.
        has_images: The model has a vision encoder.
        source: Provenance, one line.
    """

    measured: Measured
    kv_tokens: int
    has_images: bool
    source: str


def kernels(model_name: str, gpu: str, sizes: Sizes) -> Kernels:
    """Return the times of a model on one GPU.

    Args:
        model_name: As on Hugging Face; well-known ones need no network.
        gpu: Such as `h200`, `b200` or `h100_pcie`.
        sizes: What to ask for.

    Raises:
        CommandError: The package is not here, or does not know the model or the GPU.
    """
    try:
        from aiconfigurator_core.sdk import config, perf_database
        from aiconfigurator_core.sdk.backends.factory import get_backend
        from aiconfigurator_core.sdk.config_builders import build_model_config
        from aiconfigurator_core.sdk.engine import EngineHandle
        from aiconfigurator_core.sdk.models import get_model
    except ImportError:
        raise CommandError(
            f"--from aiconfigurator needs {PACKAGE}: install epd-operator[aiconfigurator]"
        ) from None
    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)  # it warns of other models
    system = gpu if "_" in gpu else f"{gpu}_sxm"
    try:
        engine = EngineHandle.compile(model_name, system, "vllm", backend_version=ENGINE_VERSION)
        model = get_model(model_name, build_model_config(1, 1, 1, 1, 1), "vllm")
        database = perf_database.get_database(system, "vllm", ENGINE_VERSION)
    except Exception as error:  # its errors have no common ground
        what = " ".join(str(error).split())[:200]
        raise CommandError(f"{PACKAGE} has no {model_name} on {system}: {what}") from None
    backend: Any = get_backend("vllm")

    def encode(size: tuple[int, int], images: int) -> tuple[int, float]:
        run = config.RuntimeConfig(
            batch_size=1,
            isl=sizes.prompts[0],
            osl=_OUTPUT,
            image_width=size[0],
            image_height=size[1],
            num_images_per_request=images,
        )
        times_ms, _, _, tokens = backend._run_encoder_phase(model, database, run, 1)
        return tokens // images, sum(times_ms.values())

    vision = model.encoder_config
    measured = Measured(
        prefill=[(n, engine.predict_prefill_latency(bs=1, isl=n)) for n in sizes.prompts],
        held_out=[(n, engine.predict_prefill_latency(bs=1, isl=n)) for n in sizes.held_out],
        decode=[
            (batch, batch * context, engine.predict_decode_latency(bs=batch, isl=context))
            for batch in sizes.batches
            for context in sizes.contexts
        ],
        kv_bytes_per_token=round(model.get_kvcache_bytes_per_sequence(1000) / 1000),
    )
    if vision is not None:
        # The images' rows for the first layer, and for the deeper ones that take some, too.
        layers = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
        measured.ec_bytes_per_token = layers * vision.out_hidden_size * _BYTES_PER_NUMBER
        for size in sizes.pictures:
            for images in sizes.pictures_at_once:
                tokens, ms = encode(size, images)
                measured.encode.append((tokens, images, ms))
    used = backend._get_memory_usage(model, database, 1, 1, sizes.prompts[0], _OUTPUT)
    room = database.system_spec["gpu"]["mem_capacity"] * _MEMORY_SHARE
    room -= (used["total"] - used["kvcache"]) * _GIB
    source = _source(model_name, system)
    return Kernels(measured, int(room / measured.kv_bytes_per_token), vision is not None, source)


def _source(model_name: str, system: str) -> str:
    return (
        f"{model_name}, bf16, on {system}: kernel times of vLLM {ENGINE_VERSION} summed by "
        f"{PACKAGE} {version(PACKAGE)}; no CPU time, no scheduling, no handoff"
    )
