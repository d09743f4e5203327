"""vLLM's NIXL encoder-cache connector on the CPU platform.

The stock `ECCPUConnector` asks for Model Runner V2, which needs a CPU Triton that does not exist
on PyPI. Its scheduler half (shared arena, control channel, NIXL READ, retries) is used as it is;
only the worker half's CUDA-stream copies are replaced by plain memory copies. On CUDA the stock
class is used.
"""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorBase, ECConnectorRole
from vllm.distributed.ec_transfer.ec_connector.cpu.common import (
    ECCPUConnectorMetadata,
    create_ec_shared_region,
)
from vllm.distributed.ec_transfer.ec_connector.cpu.connector import ECCPUConnector
from vllm.distributed.ec_transfer.ec_connector.cpu.scheduler import ECCPUScheduler


class CpuWorkerHalf:
    """Copies embeddings between the runner's encoder cache and the shared arena."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        """Map the arena that the scheduler half created."""
        self._region = create_ec_shared_region(vllm_config)
        self.dtype = vllm_config.model_config.dtype

    def save_caches(
        self,
        encoder_cache: dict[str, torch.Tensor],
        mm_hash: str,
        connector_metadata: ECCPUConnectorMetadata,
    ) -> None:
        """Write one freshly computed embedding to the blocks the scheduler chose."""
        block_ids = connector_metadata.saves.get(mm_hash)
        if block_ids is not None:
            write_blocks(self._region, block_ids, encoder_cache[mm_hash])

    def start_load_caches(
        self, encoder_cache: dict[str, torch.Tensor], connector_metadata: ECCPUConnectorMetadata
    ) -> None:
        """Put embeddings that arrived in the arena into the runner's encoder cache."""
        for mm_hash, (_, block_ids, shape) in connector_metadata.loads.items():
            if mm_hash not in encoder_cache:
                raw = self._region.blocks[torch.tensor(block_ids)].reshape(-1)
                size_bytes = shape[0] * shape[1] * self.dtype.itemsize
                encoder_cache[mm_hash] = raw[:size_bytes].view(self.dtype).view(*shape)

    def flush_saves(self) -> None:
        """Do nothing: copies are synchronous."""

    def build_connector_worker_meta(self) -> None:
        """Report nothing: the scheduler half knows that a step's copies ended with the step."""

    def shutdown(self) -> None:
        """Unmap the arena."""
        self._region.cleanup()


def write_blocks(region: Any, block_ids: list[int], embedding: torch.Tensor) -> None:
    """Copy one embedding (rows x width) to the arena's blocks, padding the last one."""
    source = embedding.detach().contiguous().cpu().view(-1).view(torch.int8)
    block_bytes = region.block_size_bytes
    padded = torch.zeros(len(block_ids) * block_bytes, dtype=torch.int8)
    padded[: source.numel()] = source
    region.blocks[torch.tensor(block_ids)] = padded.view(len(block_ids), block_bytes)


class CpuSchedulerHalf(ECCPUScheduler):
    """Takes a step's copies as done when the next step is built."""

    _last: ECCPUConnectorMetadata | None = None

    def build_connector_meta(self, scheduler_output: Any) -> ECCPUConnectorMetadata:
        """Settle the last step's saves and loads, then build the next step's."""
        if self._last is not None:
            for mm_hash in self._last.saves:
                entry = self._cache.get(mm_hash)
                if entry is not None and not entry.ready:
                    self._cache.mark_ready(mm_hash)
            for transfer_id, _, _ in self._last.loads.values():
                pinned = self._load_acks.pop(transfer_id, None)
                if pinned is not None:
                    self._cache.unpin(pinned[0])
        self._last = super().build_connector_meta(scheduler_output)
        return self._last


class CpuEcConnector(ECCPUConnector):
    """The stock connector with CPU halves, on Model Runner V1."""

    def __init__(self, vllm_config: VllmConfig, role: ECConnectorRole) -> None:
        """Skip the stock constructor's check for Model Runner V2."""
        ECConnectorBase.__init__(self, vllm_config=vllm_config, role=role)
        is_worker = role == ECConnectorRole.WORKER
        self.connector_worker = CpuWorkerHalf(vllm_config) if is_worker else None
        self.connector_scheduler = None if is_worker else CpuSchedulerHalf(vllm_config)
