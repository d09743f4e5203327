"""Functions that run inside vLLM's worker processes, sent there by `collective_rpc`."""

import contextlib
import os
from typing import Any

import torch
from vllm.distributed.ec_transfer import get_ec_transfer
from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.multimodal.utils import group_and_batch_mm_kwargs

from epd_worker.engine.vllm_ec_cpu import write_blocks


def encode_items(worker: Any, items: list[tuple[str, Any, list[int]]]) -> None:
    """Run the vision tower on `(modality, processed item, block ids)` and fill the blocks.

    The items are grouped by modality. Every rank computes; the arena is shared, so that one
    writes.
    """
    runner = worker.model_runner
    groups = group_and_batch_mm_kwargs(
        [(modality, data) for modality, data, _ in items], device=runner.device
    )
    embeddings: list[torch.Tensor] = []
    with torch.inference_mode():
        for _, _, batch in groups:
            embeddings += list(runner.model.embed_multimodal(**batch))
    if worker.rank != 0:
        return
    region = _arena()
    for embedding, (_, _, block_ids) in zip(embeddings, items, strict=True):
        write_blocks(region, block_ids, embedding)


def _arena() -> Any:
    half = get_ec_transfer().connector_worker
    return half._region


def disown_worker_arena(_: Any) -> None:
    """Run `disown_arena` on this worker's half."""
    disown_arena(_arena())


def disown_arena(region: Any) -> None:
    """Remove the arena's name: the mappings stay, and no kill can leave the file behind.

    Called once every process of the engine has mapped it.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(region._mmap_path)
    region._is_creator = False


def expire_kv(_: Any, identifiers: list[str]) -> None:
    """End the leases of finished prefills, so that their blocks are freed at the next step."""
    deadlines = get_kv_transfer_group().connector_worker._reqs_to_send
    for identifier in identifiers:
        if identifier in deadlines:
            deadlines[identifier] = 0.0
