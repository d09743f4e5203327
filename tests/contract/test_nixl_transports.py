"""The real NIXL starts, and moves bytes to itself, over every transport that needs no device.

Where it does not start, neither does the worker, and that leaves nothing.
"""

import os
import subprocess
import sys

import pytest
import shared_memory
from reference_answers import tiny_model

from epd_worker.engine.tiny_models import TinyKind
from epd_worker.engine.transports import DEVICES, TRANSPORTS, UCX_TLS, ucx_tls

pytestmark = pytest.mark.vllm

# NIXL tries a transfer within the agent when its backend is made, and fails where that does.
PROGRAM = """
from nixl._api import nixl_agent, nixl_agent_config
nixl_agent("agent", nixl_agent_config(backends=["UCX"])).get_agent_metadata()
"""


@pytest.mark.parametrize("transport", [each for each in TRANSPORTS if each not in ("Auto", "RDMA")])
def test_nixl_starts_over_a_transport(transport: str) -> None:
    environment = {**os.environ, UCX_TLS: ucx_tls(transport, cuda=False)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(any(DEVICES.glob("uverbs*")), reason="there are RDMA devices here")
def test_nixl_does_not_start_over_devices_that_are_not_there() -> None:
    """So the tests above can fail."""
    environment = {**os.environ, UCX_TLS: "ib,self"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert "NIXL_ERR_BACKEND" in done.stderr


@pytest.mark.skipif(any(DEVICES.glob("uverbs*")), reason="there are RDMA devices here")
def test_a_worker_whose_engine_fails_as_it_starts_leaves_no_shared_memory() -> None:
    before = abandoned_arenas()
    model = str(tiny_model(TinyKind.QWEN3_VL))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "epd_worker", "--listen=127.0.0.1:0", f"--model={model}"),
            *("--", "--max-model-len=512", "--dtype=float32", "--enforce-eager"),
            "--kv-cache-memory-bytes=16777216",
        ],
        env={**os.environ, UCX_TLS: "ib,self"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "epd-worker: error: vLLM did not start" in done.stderr
    assert abandoned_arenas() <= before


def abandoned_arenas() -> set[str]:
    return {name for name in shared_memory.orphans() if name.startswith("vllm_ec_")}
