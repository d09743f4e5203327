"""The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""

import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

ASK_TIMEOUT_S: Final = 10.0


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that this user may use here: those the environment names, else all."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(gpu.strip() for gpu in chosen.split(",") if gpu.strip())
    ask = shutil.which("nvidia-smi")
    if ask is None:
        return ()
    try:
        answer = subprocess.run(
            [ask, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())
