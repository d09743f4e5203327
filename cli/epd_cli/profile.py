"""`epd profile`: what the stages cost on a live worker, or by NVIDIA's measured kernels."""

import argparse
import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.progress import Progress

from epd.api.curves import CurvesFile
from epd.wire.messages import Description
from epd_cli.connect import chosen_cluster
from epd_cli.failures import CommandError, UsageError
from epd_cli.profile_fit import Fit, Measured, Residual, fit
from epd_cli.profile_handoff import require_pair
from epd_cli.profile_kernels import kernels
from epd_cli.profile_measure import longest_prompt, measure
from epd_cli.profile_sizes import SIZES
from epd_cli.profile_worker import probing
from epd_cli.study_traffic import bar
from epd_cli.tables import print_table
from epd_operator.local_state import PodState


def run(options: argparse.Namespace) -> int:
    """Measure, fit, show how well it fits, and write the curves file."""
    if options.source:
        return _from_kernels(options)
    if not options.worker:
        raise UsageError("which worker? name a pod, HOST:PORT, or --from aiconfigurator")
    giver, taker = _addresses(options)
    if options.seed is None:
        # What a worker has seen before is in its caches.
        options.seed = secrets.randbelow(2**31)
    with bar(1, quiet=False) as progress:
        measured, description, took = asyncio.run(_measure(giver, taker, options, progress))
    fitted = fit(measured)
    _show(fitted)
    if measured.noise is not None:
        print(
            f"{measured.rounds} rounds, every other one differs by {measured.noise:.1%}; "
            f"seed {options.seed}"
        )
    if not took:
        print("handoffs were not measured: that takes a second worker, --taker POD|HOST:PORT")
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    source = f"{description.model} ({description.engine}), epd profile of a live worker, {now}"
    facts = _facts(description, measured)
    pair = f"{description.worker_id} to {took}" if took else "not measured"
    handoff = {**fitted.sections.get("handoff", {}), **facts["handoff"], "source": pair}
    tree = {"source": source, **fitted.sections, **facts, "handoff": handoff}
    write_curves(Path(options.output), tree)
    return 0


def _from_kernels(options: argparse.Namespace) -> int:
    """Make the curves of NVIDIA's kernel times, which needs no GPU."""
    if not (options.model and options.gpu) or options.worker:
        raise UsageError("--from aiconfigurator takes --model and --gpu, and no worker")
    found = kernels(options.model, options.gpu, SIZES)
    fitted = fit(found.measured)
    _show(fitted)
    capacity: dict[str, Any] = {"kv_tokens": found.kv_tokens}
    if not found.has_images:
        capacity["max_images"] = 0
    tree = {
        "source": found.source,
        **fitted.sections,
        "handoff": {**_bytes(found.measured), "source": "not measured"},
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


def _addresses(options: argparse.Namespace) -> tuple[str, str]:
    """Return where the worker and the taker of its handoffs are; no taker: empty.

    Beside a pod, another pod of its cluster takes, if one is ready.
    """
    names = [name for name in (options.worker, options.taker) if name and ":" not in name]
    found = chosen_cluster(options).read().pods if names else ()
    pods = {pod.name: pod.address for pod in found if pod.address}
    ready = (pod.name for pod in found if pod.state is PodState.READY)
    for name in names:
        if name not in pods:
            raise CommandError(
                f"{name!r} is neither HOST:PORT nor a pod that runs; there are {', '.join(pods)}"
            )
    taker = options.taker or next((name for name in ready if name != options.worker), "")
    return pods.get(options.worker, options.worker), pods.get(taker, taker)


async def _measure(
    giver: str, to: str, options: argparse.Namespace, progress: Progress
) -> tuple[Measured, Description, str]:
    """Measure every stage that fits into the worker; return also who took handoffs, if any."""
    async with AsyncExitStack() as stack:
        probe = await stack.enter_async_context(probing(giver, options.seed))
        taker = None
        if to:
            taker = await stack.enter_async_context(probing(to, options.seed + 1))
            require_pair(probe, taker)
        what = probe.description
        sizes = SIZES.within(
            longest_prompt(probe), images=bool(what.max_images), quick=options.quick
        )
        measured = await measure(probe, taker, sizes, options.repeats, progress)
    return measured, what, taker.description.worker_id if taker else ""


def _facts(what: Description, measured: Measured) -> dict[str, Any]:
    """Return the sections that are told by the worker, not measured."""
    kv_tokens = what.kv_capacity_tokens or what.max_model_len
    return {
        "handoff": _bytes(measured),
        "capacity": {
            "context_tokens": min(what.max_model_len, kv_tokens),
            "kv_tokens": kv_tokens,
            "max_images": what.max_images,
            "pixels_once": what.pixels_once,
        },
    }


def _bytes(measured: Measured) -> dict[str, int]:
    sizes = {
        "kv_bytes_per_token": measured.kv_bytes_per_token,
        "ec_bytes_per_token": measured.ec_bytes_per_token,
    }
    return {name: size for name, size in sizes.items() if size}


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
