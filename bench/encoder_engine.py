"""A second engine that only encodes: vLLM as `ec_producer`, without its language model.

    python bench/encoder_engine.py MODEL PORT [engine arguments]

The candidate that the worker's encode-only requests are measured against. Each line on standard
input is the path of an image; each is answered by a line with the embedding's announcement. It
says `ready` when it is.
"""

import asyncio
import json
import os
import sys
from typing import Any

PROMPT = "<|vision_start|><|image_pad|><|vision_end|>"
ENVIRONMENT = {
    "EPD_VLLM_PLUGIN": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "UCX_TLS": "tcp,sm,self",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_EC_SIDE_CHANNEL_HOST": "127.0.0.1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def start(model: str, arguments: list[str]) -> Any:
    """Load the encoder; the environment is set by then."""
    from vllm.config import ECTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    engine_args = AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", model, *arguments]))
    engine_args.distributed_executor_backend = "uni"
    engine_args.mm_processor_cache_gb = 0
    engine_args.enable_prefix_caching = False
    engine_args.ec_transfer_config = ECTransferConfig(
        ec_connector="CpuEcConnector",
        ec_connector_module_path="epd_worker.engine.vllm_ec_cpu",
        ec_role="ec_producer",
        ec_connector_extra_config={"ec_cpu_bytes": 64 << 20, "ec_enable_nixl": True},
    )
    return AsyncLLM.from_engine_args(engine_args)


async def encode(engine: Any, path: str, number: int) -> dict[str, Any]:
    """Encode one image; return what other engines need to fetch it."""
    from PIL import Image
    from vllm import SamplingParams

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    prompt = {"prompt": PROMPT, "multi_modal_data": {"image": image}}
    announced: dict[str, Any] = {}
    async for output in engine.generate(prompt, SamplingParams(max_tokens=1), str(number)):
        announced = output.ec_transfer_params or announced
    return announced


async def serve(model: str, arguments: list[str]) -> None:
    """Answer lines until there are none."""
    engine = start(model, arguments)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        number += 1
        announced = await encode(engine, line.strip(), number)
        sys.stdout.write(json.dumps(announced, default=str) + "\n")
        sys.stdout.flush()
    engine.shutdown()


def main() -> None:
    """Set the environment, then load vLLM."""
    os.environ.update(ENVIRONMENT | {"VLLM_EC_SIDE_CHANNEL_PORT": sys.argv[2]})
    asyncio.run(serve(sys.argv[1], sys.argv[3:]))


if __name__ == "__main__":
    main()
