"""Make tiny models with random weights: the real architectures, without a download.

    python -m epd_worker.engine.tiny_models OUT_DIR [qwen2_5_vl] [qwen3_vl] [llava] [text]

Each model is a folder that vLLM and transformers load like a published one. What is there and
made by the same recipe is kept; anything else under the same name is made again.
"""

import argparse
import fcntl
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum, unique
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from epd_worker.engine import tiny_recipes, tiny_tokenizer

_MARKER: Final = "tiny-model.json"
_LIBRARIES: Final = ("tokenizers", "torch", "transformers")
_log = logging.getLogger(__name__)


@unique
class TinyKind(StrEnum):
    """The tiny models there are."""

    QWEN2_5_VL = "qwen2_5_vl"
    QWEN3_VL = "qwen3_vl"
    LLAVA = "llava"
    TEXT = "text"

    @property
    def folder_name(self) -> str:
        """The model's folder below the output directory."""
        return _FOLDERS[self]


_FOLDERS: Final = {
    TinyKind.QWEN2_5_VL: "tiny-qwen2.5-vl",
    TinyKind.QWEN3_VL: "tiny-qwen3-vl",
    TinyKind.LLAVA: "tiny-llava",
    TinyKind.TEXT: "tiny-text",
}


@cache
def recipe_hash() -> str:
    """Return a hash of everything that decides what a tiny model holds.

    Raises:
        metadata.PackageNotFoundError: torch, transformers or tokenizers is not installed.
    """
    digest = sha256()
    for module in (tiny_tokenizer.__file__, tiny_recipes.__file__):
        digest.update(Path(module).read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library}=={metadata.version(library)}\n".encode())
    return digest.hexdigest()


def ensure(out_dir: Path, kind: TinyKind) -> Path:
    """Return the folder of a finished model of this kind under `out_dir`, making it if need be.

    Safe to call from several processes at once. A model is never seen half-made: it is made
    beside its place and renamed.
    """
    folder = out_dir / kind.folder_name
    with _locked(out_dir):
        if is_finished(folder):
            _log.info("%s: up to date", folder.name)
            return folder
        started_s = time.monotonic()
        _log.info("%s: making it", folder.name)
        partial = out_dir / f".{folder.name}.partial"
        _remove(partial)
        partial.mkdir()
        parameters = _make(kind, partial)
        _make_readable(partial)
        _mark_finished(partial)
        _remove(folder)
        partial.rename(folder)
        took_s = time.monotonic() - started_s
        _log.info("%s: %d parameters, made in %.1f s", folder.name, parameters, took_s)
    return folder


def _make_readable(folder: Path) -> None:
    """Let every user read the files: weights are saved for their owner, and pods are not him."""
    for path in folder.iterdir():
        path.chmod(path.stat().st_mode | 0o444)


def is_finished(folder: Path) -> bool:
    """Say whether `folder` holds all files of a model that today's recipe has made."""
    try:
        marker = json.loads((folder / _MARKER).read_text())
        sizes = {name: (folder / name).stat().st_size for name in marker["file_bytes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(marker["recipe"] == recipe_hash() and marker["file_bytes"] == sizes)


def _make(kind: TinyKind, folder: Path) -> int:
    from epd_worker.engine import torchvision_cpu

    torchvision_cpu.apply()
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    return tiny_recipes.save(tiny_recipes.RECIPES[kind], folder)


def _mark_finished(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    marker: dict[str, Any] = {"recipe": recipe_hash(), "file_bytes": sizes}
    (folder / _MARKER).write_text(json.dumps(marker, indent=1) + "\n")


def _remove(path: Path) -> None:
    """Remove a folder that may be absent, its marker first: interrupted, it is unfinished."""
    (path / _MARKER).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def _locked(out_dir: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel lets go of it however the holder ends."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / ".tiny-models.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m epd_worker.engine.tiny_models",
        description="Make tiny random-weight models (real architectures, no download).",
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"{', '.join(TinyKind)} (default: all)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        kinds = [TinyKind(kind) for kind in options.kinds] or list(TinyKind)
    except ValueError as unknown:
        parser.error(f"{unknown}; known: {', '.join(TinyKind)}")
    # Local files only, so never wait for the hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        for kind in kinds:
            ensure(options.out_dir, kind)
    except metadata.PackageNotFoundError as missing:
        parser.exit(1, f"{missing.name} is not installed: run `make env` without LIGHT=1\n")
    except OSError as fault:
        parser.exit(1, f"cannot make a tiny model in {options.out_dir}: {fault}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
