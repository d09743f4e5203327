"""`epd profile`: what the stages cost on a live worker, or by NVIDIA's measured kernels."""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any, Final

import yaml
from rich.progress import Progress

from epd.api.curves import CurvesFile
from epd.wire.messages import Description
from epd_cli.connect import chosen_cluster
from epd_cli.failures import CommandError, UsageError
from epd_cli.profile_fit import Fit, Measured, Residual, fit
from epd_cli.profile_kernels import Sizes, kernels
from epd_cli.profile_worker import Probe, probing
from epd_cli.study_traffic import bar
from epd_cli.tables import print_table

PROMPTS: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
BATCHES: Final = (1, 8, 32, 128)
CONTEXTS: Final = (64, 1024)
PICTURES: Final = ((448, 448), (1024, 1024), (1920, 1080))
PICTURES_AT_ONCE: Final = (1, 4)
STEPS: Final = 40
QUICK: Final = 5
QUICK_BATCHES: Final = 2
"""What `--quick` keeps of prompts and batches."""


def run(options: argparse.Namespace) -> int:
    """Measure, fit, show how well it fits, and write the curves file."""
    if options.source:
        return _from_kernels(options)
    if not options.worker:
        raise UsageError("which worker? name a pod, HOST:PORT, or --from aiconfigurator")
    address = options.worker if ":" in options.worker else _address_of_pod(options)
    with bar(1, quiet=False) as progress:
        measured, description = asyncio.run(_measure(address, options, progress))
    fitted = fit(measured)
    _show(fitted)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    source = f"{description.model} ({description.engine}), epd profile of a live worker, {now}"
    tree = {"source": source, **fitted.sections, **_facts(description, measured)}
    write_curves(Path(options.output), tree)
    return 0


def _from_kernels(options: argparse.Namespace) -> int:
    """Make the curves of NVIDIA's kernel times, which needs no GPU."""
    if not (options.model and options.gpu) or options.worker:
        raise UsageError("--from aiconfigurator takes --model and --gpu, and no worker")
    sizes = Sizes(PROMPTS, _between(PROMPTS), BATCHES, CONTEXTS, PICTURES, PICTURES_AT_ONCE)
    found = kernels(options.model, options.gpu, sizes)
    fitted = fit(found.measured)
    _show(fitted)
    capacity: dict[str, Any] = {"kv_tokens": found.kv_tokens}
    if not found.has_images:
        capacity["max_images"] = 0
    tree = {
        "source": found.source,
        **fitted.sections,
        "handoff": _handoff(found.measured),
        "capacity": capacity,
    }
    write_curves(Path(options.output), tree)
    return 0


def write_curves(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a curves file, and check that it can be read.

    Raises:
        CommandError: It cannot be written.
    """
    lines = yaml.safe_dump(dict(tree), sort_keys=False, default_flow_style=None, width=100)
    try:
        path.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
    CurvesFile.read(path)
    print(f"\nwrote {path}: for epd simulate --model, and costCurvesFile of a simulated engine")


def _address_of_pod(options: argparse.Namespace) -> str:
    pods = {pod.name: pod.address for pod in chosen_cluster(options).read().pods}
    if options.worker not in pods:
        raise CommandError(
            f"{options.worker!r} is neither HOST:PORT nor a pod; there are {', '.join(pods)}"
        )
    return pods[options.worker]


async def _measure(
    address: str, options: argparse.Namespace, progress: Progress
) -> tuple[Measured, Description]:
    """Measure every stage that fits into the worker.

    Of the repeats the fastest counts: what else the machine does can only delay.
    """
    measured = Measured()
    task = progress.tasks[0].id
    async with probing(address, options.seed) as probe:
        what = probe.description
        longest = max(2, what.max_model_len - 2 * STEPS)
        prompts = _up_to(PROMPTS[:QUICK] if options.quick else PROMPTS, longest)
        between = _between(prompts)
        pictures = PICTURES if what.max_images else ()
        batches = BATCHES[:QUICK_BATCHES] if options.quick else BATCHES
        progress.update(
            task, total=2 * len(prompts) - 1 + len(pictures) + len(batches), description="warm-up"
        )
        await probe.prefill(prompts[0])
        for tokens in (*prompts, *between):
            progress.update(task, description=f"prefill {tokens} tokens")
            found = [await probe.prefill(tokens) for _ in range(options.repeats)]
            kv, times_ms = found[0][0].kv, [ms for _, ms in found]
            measured.kv_bytes_per_token = kv.size_bytes // max(1, kv.tokens)
            kind = measured.prefill if tokens in prompts else measured.held_out
            kind.append((kv.tokens, min(times_ms)))
            progress.advance(task)
        for size in pictures:
            progress.update(task, description=f"encode {size[0]} x {size[1]}")
            await _encode(probe, size, options.repeats, measured)
            progress.advance(task)
        for sequences in batches:
            progress.update(task, description=f"decode {sequences} at once")
            for context in _up_to(CONTEXTS, longest - 2 * sequences - 2 * STEPS):
                room = what.kv_capacity_tokens or sequences * longest
                if sequences * (context + STEPS + 3 * sequences) > room:
                    continue
                if (step := await probe.decode(sequences, context, STEPS)) is not None:
                    measured.decode.append((sequences, *step))
            progress.advance(task)
    return measured, what


async def _encode(probe: Probe, size: tuple[int, int], repeats: int, measured: Measured) -> None:
    for images in PICTURES_AT_ONCE:
        found = [await probe.encode(size, images) for _ in range(repeats)]
        handle = found[0][0]
        measured.ec_bytes_per_token = handle.size_bytes // max(1, handle.tokens)
        measured.encode.append((handle.tokens, images, min(ms for _, ms in found)))


def _up_to(sizes: Sequence[int], most: int) -> Sequence[int]:
    return [size for size in sizes if size <= most] or [max(1, most)]


def _facts(what: Description, measured: Measured) -> dict[str, Any]:
    """Return the sections that are told by the worker, not measured."""
    kv_tokens = what.kv_capacity_tokens or what.max_model_len
    return {
        "handoff": _handoff(measured),
        "capacity": {
            "context_tokens": min(what.max_model_len, kv_tokens),
            "kv_tokens": kv_tokens,
            "max_images": what.max_images,
            "pixels_once": what.pixels_once,
        },
    }


def _handoff(measured: Measured) -> dict[str, int]:
    sizes = {
        "kv_bytes_per_token": measured.kv_bytes_per_token,
        "ec_bytes_per_token": measured.ec_bytes_per_token,
    }
    return {name: size for name, size in sizes.items() if size}


def _between(sizes: Sequence[int]) -> list[int]:
    """Return the sizes half way, as ratios go."""
    return [round(sqrt(a * b)) for a, b in pairwise(sizes)]


def _show(fitted: Fit) -> None:
    columns = ("MEASURED", "ms", "FITTED ms", "OFF")
    print_table(columns, [_cells(residual) for residual in fitted.residuals])
    if not fitted.held_out:
        return
    print("\nheld out: lengths that went into no fit")
    print_table(columns, [_cells(residual) for residual in fitted.held_out])
    print(f"median error of the predicted TTFT: {fitted.held_out_error:.1%}")


def _cells(residual: Residual) -> list[str]:
    return [
        residual.what,
        f"{residual.measured_ms:.2f}",
        f"{residual.fitted_ms:.2f}",
        f"{residual.error:+.1%}",
    ]
