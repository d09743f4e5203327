"""What our engine adds to vLLM's engine core, as patches of the pinned vLLM.

1. *Encode only* (`ENCODE_ONLY`): a request whose single image goes through the vision tower into
   the encoder-cache arena and nowhere else. No language-model step, no KV block. Requests that
   arrive together are encoded as one batch, between two engine steps.
2. *Prior output tokens* (`PRIOR_TOKENS`): a request that goes on after tokens which another
   engine sampled. They are output tokens in every respect (length limits, penalties, grammar,
   seeded draws), which is what lets a decode start after the first token of a prefill elsewhere,
   and a lost stream continue, without computing or emitting a token twice.
3. *Leases*: an announced embedding is pinned until it is released or `EC_LEASE_S` has passed; KV
   and EC can be released by name (`epd_release`). The core sleeps when no lease is open, but for
   one step at each `epd_tick`: without NIXL's progress thread nothing else serves a peer that
   comes late, say after it was frozen, and that would wait, and keep its blocks, for ever.
4. *Nothing left behind*: the arena's file is unlinked as soon as all have mapped it.

All are reached through `SamplingParams.extra_args` and engine-core utility calls.
"""

import os
import time
from itertools import count
from typing import Any

import torch
from vllm.distributed.ec_transfer.ec_connector.encoder_output_width import (
    get_encoder_output_width,
)
from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from epd.vocabulary import Env
from epd_worker.engine import vllm_ec_reads, vllm_workers
from epd_worker.engine.ec_leases import content_of, lease_name
from epd_worker.engine.vllm_patching import around

logger = init_logger("vllm.epd")

OWN_PREFIX = "epd_"
ENCODE_ONLY = f"{OWN_PREFIX}encode_only"
PRIOR_TOKENS = f"{OWN_PREFIX}prior_tokens"
VOCABULARY_SIZE = f"{OWN_PREFIX}vocabulary_size"


def _extra(sampling_params: Any, name: str) -> Any:
    extra_args = getattr(sampling_params, "extra_args", None)
    return extra_args.get(name) if extra_args else None


class EcLeases:
    """Pins on announced embeddings, each until released or expired. No I/O."""

    def __init__(self, cache: Any, duration_s: float) -> None:
        """Pin entries of `cache` (vLLM's `EmbeddingCache`) for `duration_s` each."""
        self._cache = cache
        self._duration_s = duration_s
        self._numbers = count()
        self._open: dict[str, float] = {}
        """The deadline of each, by its name; the oldest first."""

    def __len__(self) -> int:
        """Count the open leases."""
        return len(self._open)

    def grant(self, identifier: str, now_s: float) -> str:
        """Pin an entry that is ready; return the name of the lease."""
        lease = lease_name(identifier, next(self._numbers))
        self._cache.pin(identifier)
        self._open[lease] = now_s + self._duration_s
        return lease

    def release(self, lease: str) -> None:
        """Give a lease back; what is unknown, or was given back before, is ignored."""
        if self._open.pop(lease, None) is not None:
            self._cache.unpin(content_of(lease))

    def expire(self, now_s: float) -> None:
        """Give back what nobody took in time."""
        for lease in [lease for lease, deadline_s in self._open.items() if deadline_s <= now_s]:
            self.release(lease)


class EncodeQueue:
    """The encode-only requests of one engine core."""

    def __init__(self, core: Any, ec_scheduler: Any, leases: EcLeases) -> None:
        """Serve `core` with the scheduler half of its encoder-cache connector."""
        self._core = core
        self._ec = ec_scheduler
        self._leases = leases
        self._pending: list[Request] = []

    def __len__(self) -> int:
        """Count the waiting requests."""
        return len(self._pending)

    def add(self, request: Request) -> None:
        """Take a request; it is answered by a later `run`."""
        self._pending.append(request)

    def drop(self, request_ids: set[str]) -> None:
        """Forget requests whose caller has gone."""
        self._pending = [r for r in self._pending if r.request_id not in request_ids]

    def run(self) -> None:
        """Encode what is pending as one batch and answer every request that can be answered."""
        requests, self._pending = self._pending, []
        batch: dict[str, tuple[str, Any, list[int]]] = {}
        failed: set[str] = set()
        for request in requests:
            identifier = request.mm_features[0].identifier
            if (
                identifier not in batch
                and self._ec._cache.get(identifier) is None
                and not self._reserve(request, batch)
            ):
                failed.add(identifier)
        if batch and not self._compute(batch):
            failed |= batch.keys()
        for request in requests:
            identifier = request.mm_features[0].identifier
            entry = self._ec._cache.get(identifier)
            if identifier in failed or entry is None:
                self._answer(request, FinishReason.ERROR, None)
            elif entry.ready:
                self._announce(request)
            else:  # arriving from another pod, for a request that runs here
                self._pending.append(request)

    def _reserve(self, request: Request, batch: dict[str, tuple[str, Any, list[int]]]) -> bool:
        feature = request.mm_features[0]
        if feature.data is None:
            return False
        width = get_encoder_output_width(self._core.vllm_config, feature.modality)
        shape = (feature.mm_position.get_num_embeds(), width)
        count = self._ec._num_blocks(shape)
        if count > self._ec._region.num_blocks:
            return False
        entry = self._ec._cache.alloc(feature.identifier, count, shape)
        if entry is None:
            return False
        batch[feature.identifier] = (feature.modality, feature.data, list(entry.block_ids))
        return True

    def _compute(self, batch: dict[str, tuple[str, Any, list[int]]]) -> bool:
        items = sorted(batch.values(), key=lambda item: item[0])  # one batch per modality
        try:
            self._core.model_executor.collective_rpc(vllm_workers.encode_items, args=(items,))
        except Exception as error:  # a bad image must not end the engine
            logger.error("encode failed: %s", type(error).__name__)
            for identifier in batch:
                self._ec._cache.discard(identifier)
            return False
        for identifier in batch:
            self._ec._cache.mark_ready(identifier)
        return True

    def _announce(self, request: Request) -> None:
        identifier = request.mm_features[0].identifier
        lease = self._leases.grant(identifier, time.monotonic())
        _, announcement = self._ec.request_finished(request)
        self._answer(request, FinishReason.STOP, {lease: announcement[identifier]})

    def _answer(
        self, request: Request, reason: FinishReason, announcement: dict[str, Any] | None
    ) -> None:
        output = EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[],
            finish_reason=reason,
            ec_transfer_params=announcement,
            trace_headers=request.trace_headers,
        )
        outputs = EngineCoreOutputs(outputs=[output], finished_requests={request.request_id})
        self._core.output_queue.put_nowait((request.client_index, outputs))


def apply() -> None:
    """Patch this process's vLLM; safe to call again."""
    if getattr(EngineCoreProc, "epd_applied", False):
        return
    EngineCoreProc.epd_applied = True
    _patch_core()
    _patch_prior_tokens()


def _patch_core() -> None:
    vllm_ec_reads.apply()
    # vLLM loads plugins inside the core's constructor; the loop is the first call after it.
    around(EngineCoreProc, "run_busy_loop")(_run_busy_loop)
    around(EngineCoreProc, "add_request")(_add_request)
    around(EngineCoreProc, "abort_requests")(_abort_requests)
    around(EngineCoreProc, "has_work")(_has_work)
    around(Scheduler, "has_requests")(_has_requests)
    around(EngineCoreProc, "_process_engine_step")(_process_engine_step)
    EngineCoreProc.epd_release = _release
    EngineCoreProc.epd_load = _load
    EngineCoreProc.epd_tick = _tick


def _run_busy_loop(original: Any, core: Any) -> None:
    core.epd_encodes, core.epd_leases = (), ()
    ec_connector = core.scheduler.get_ec_connector()
    if ec_connector is not None:
        ec_scheduler = ec_connector.connector_scheduler
        vllm_workers.disown_arena(ec_scheduler._region)
        core.model_executor.collective_rpc(vllm_workers.disown_worker_arena)
        lease_s = float(os.environ.get(Env.EC_LEASE_SECONDS, "30"))
        core.epd_leases = EcLeases(ec_scheduler._cache, lease_s)
        core.epd_encodes = EncodeQueue(core, ec_scheduler, core.epd_leases)
    original(core)


def _add_request(original: Any, core: Any, request: Request, wave: int = 0) -> None:
    if _extra(request.sampling_params, ENCODE_ONLY):
        core.epd_encodes.add(request)
    else:
        original(core, request, wave)


def _abort_requests(original: Any, core: Any, request_ids: list[str]) -> None:
    if core.epd_encodes:
        core.epd_encodes.drop(set(request_ids))
    original(core, request_ids)


def _has_work(original: Any, core: Any) -> bool:
    return bool(core.epd_encodes) or original(core)


def _process_engine_step(original: Any, core: Any) -> Any:
    if core.epd_encodes:
        core.epd_encodes.run()
    if core.epd_leases:
        core.epd_leases.expire(time.monotonic())
    progressed = original(core)
    core.scheduler.epd_ticked = False
    return progressed


def _tick(core: Any) -> None:
    """Take one step, work or not."""
    core.scheduler.epd_ticked = True


def _has_requests(original: Any, scheduler: Any) -> bool:
    return getattr(scheduler, "epd_ticked", False) or original(scheduler)


def _release(core: Any, kv_identifiers: list[str], ec_identifiers: list[str]) -> None:
    """Free named KV and EC at the next step; unknown names are ignored."""
    for identifier in ec_identifiers:
        if core.epd_leases:
            core.epd_leases.release(identifier)
    connector = core.scheduler.get_kv_connector()
    if connector is None:
        return
    not_yet_sent = connector.connector_scheduler._reqs_need_send
    for identifier in kv_identifiers:
        if identifier in not_yet_sent:
            not_yet_sent[identifier] = 0.0
    held = [i for i in kv_identifiers if i in core.scheduler.requests and i not in not_yet_sent]
    if held:
        core.model_executor.collective_rpc(vllm_workers.expire_kv, args=(held,))


def _load(core: Any) -> dict[str, int]:
    """Return what only the engine core knows of its load."""
    scheduler = core.scheduler
    running, waiting = scheduler.get_request_counts()
    queued = [*scheduler.waiting, *scheduler.kv_holding_waiting]
    prefills = [r for r in queued if not _extra(r.sampling_params, PRIOR_TOKENS)]
    load = {
        "waiting_encode": len(core.epd_encodes),
        "waiting_prefill": len(prefills),
        "waiting_decode": len(queued) - len(prefills),
        "waiting_prefill_tokens": sum(request.num_tokens for request in prefills),
        "kv_used_permille": round(1000 * scheduler.get_kv_cache_usage()),
        "kv_leases": len(scheduler.requests) - running - waiting,
        "running_tokens": sum(request.num_tokens for request in scheduler.running),
        "ec_leases": len(core.epd_leases),
        "ec_used_permille": 0,
        "ec_received_bytes_total": 0,
    }
    ec_connector = scheduler.get_ec_connector()
    if ec_connector is not None:
        ec_scheduler = ec_connector.connector_scheduler
        load["ec_received_bytes_total"] = getattr(ec_scheduler, "epd_received_bytes", 0)
        cache = ec_scheduler._cache
        free = len(cache._free_blocks) + cache._evictable_block_count
        load["ec_used_permille"] = 1000 - 1000 * free // cache._num_blocks
    return load


def _patch_prior_tokens() -> None:
    stock_from_core_request = Request.from_engine_core_request.__func__

    def from_engine_core_request(cls: Any, request: Any, block_hasher: Any) -> Request:
        made: Request = stock_from_core_request(cls, request, block_hasher)
        prior = _extra(request.sampling_params, PRIOR_TOKENS)
        if prior:
            made.append_output_token_ids(list(prior))
        return made

    Request.from_engine_core_request = classmethod(from_engine_core_request)

    around(StructuredOutputManager, "_create_grammar")(_create_grammar)
    around(CachedRequestState, "__post_init__")(_post_init)


def _create_grammar(original: Any, manager: Any, request: Request) -> Any:
    grammar = original(manager, request)
    prior = _extra(request.sampling_params, PRIOR_TOKENS)
    if prior and not grammar.accept_tokens(request.request_id, list(prior)):
        raise ValueError("the tokens so far do not fit the grammar")
    return grammar


def _post_init(original: Any, state: CachedRequestState) -> None:
    original(state)
    prior = _extra(state.sampling_params, PRIOR_TOKENS)
    if prior and not state.output_token_ids:
        state.output_token_ids = list(prior)
        if state.generator is not None:
            vocabulary_size = _extra(state.sampling_params, VOCABULARY_SIZE)
            _skip_draws(state.generator, len(prior), vocabulary_size)


def _skip_draws(generator: torch.Generator, count: int, vocabulary_size: int) -> None:
    """Bring a seeded generator to where `count` sampled tokens would have left it.

    vLLM's sampler draws one integer per token on CPU, one exponential per vocabulary entry and
    token elsewhere (Model Runner V1; V2 derives its noise from the position and needs no draws).
    """
    if generator.device.type == "cpu":
        for _ in range(count):
            torch.randint(0, 2**31, (1,), generator=generator)
        return
    row = torch.empty(vocabulary_size, device=generator.device)
    for _ in range(count):
        row.exponential_(generator=generator)
