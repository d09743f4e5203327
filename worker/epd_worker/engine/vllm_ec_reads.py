"""What our engine mends in the pinned vLLM's reads of embeddings from other engines.

1. *Nobody waits any more*: vLLM looks at a read only while a request waits for it. A request that
   is gone (cancelled, or out of time) would leave its half-read embedding in the arena, and the
   core stepping at full speed, for ever. Reads are looked at until they have ended.
2. *A dead peer*: what was being read from it keeps no room either.
3. *A peer that is asked again at once*: vLLM names the monitor of a connection after its peer, a
   name that the connection before is still letting go of. Connecting failed by that, and kept the
   room that was meant for the embedding. Each monitor has a name of its own.
4. *Idle*: the core sleeps while no embedding is leased, arriving, or being read.
5. The bytes that arrived are counted.
6. *An embedding that should be here and is not*: vLLM would run the vision tower on the metadata
   that came instead of pixels, which ends the engine. The request fails, and it alone.
"""

from itertools import count
from typing import Any

import zmq
from vllm.distributed.ec_transfer.ec_connector.cpu import scheduler as ec_scheduling
from vllm.distributed.ec_transfer.ec_connector.cpu.control import zmq as ec_control
from vllm.distributed.ec_transfer.ec_connector.cpu.scheduler import ECCPUScheduler

from epd_worker.engine.vllm_patching import around

EC_WAIT_S = 6.0
"""How long a request waits for an embedding elsewhere, retries included; vLLM's own is 60 s."""

_monitors = count()


def apply() -> None:
    """Patch this process's vLLM."""
    ec_scheduling._ADMIT_DEFER_TIMEOUT_S = EC_WAIT_S
    around(ECCPUScheduler, "has_pending_push_work")(_has_held_embeddings)
    around(ECCPUScheduler, "build_connector_meta")(_end_reads_of_nobody)
    around(ec_control.ZmqClientTransport, "connect")(_connect)
    around(ECCPUScheduler, "_on_peer_down")(_free_what_a_dead_peer_sent)
    around(ECCPUScheduler, "_process_session_results")(_count_received)
    around(ECCPUScheduler, "_admit_item")(_admit_what_is_here)


def _has_held_embeddings(_: Any, scheduler: Any) -> bool:
    """Step only while an embedding is leased, arriving, or being read."""
    return bool(scheduler._cache.has_held_entries())


def _end_reads_of_nobody(original: Any, scheduler: Any, scheduler_output: Any) -> Any:
    """Look at the reads in a step in which no waiting request has had them looked at."""
    sessions = scheduler._sessions.values()
    if scheduler._first_in_batch and any(session.has_in_flight() for session in sessions):
        scheduler._poll_step()
        # A failure is told to the next request that wants the embedding: none of these does.
        scheduler._tombstones &= {mm_hash for _, mm_hash in scheduler._deferred_since}
    return original(scheduler, scheduler_output)


def _connect(original: Any, transport: Any, peer: tuple[str, int]) -> Any:
    if peer in transport._connections:
        return original(transport, peer)
    host, port = peer
    dealer = ec_control.make_zmq_socket(
        ctx=transport._ctx,
        path=ec_control.make_zmq_path(scheme="tcp", host=host, port=port),
        socket_type=zmq.DEALER,
        bind=False,
    )
    dealer.setsockopt(zmq.HEARTBEAT_IVL, ec_control._HEARTBEAT_IVL_MS)
    dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, ec_control._HEARTBEAT_TIMEOUT_MS)
    dealer.setsockopt(zmq.HEARTBEAT_TTL, ec_control._HEARTBEAT_TTL_MS)
    name = f"inproc://epd-ec-peer-{next(_monitors)}"
    dealer.monitor(name, zmq.EVENT_DISCONNECTED)
    monitor = transport._ctx.socket(zmq.PAIR)
    monitor.connect(name)
    connection = ec_control.ZmqClientConnection(dealer=dealer, monitor=monitor)
    transport._connections[peer] = connection
    return connection


def _free_what_a_dead_peer_sent(original: Any, scheduler: Any, peer: Any) -> None:
    session = scheduler._sessions.get(peer)
    reads = [] if session is None else [*session._xfers.values(), *session._quarantined]
    original(scheduler, peer)
    for read in reads:
        entry = scheduler._cache.get(read.mm_hash)
        if entry is not None and not entry.ready:
            scheduler._cache.discard(read.mm_hash)


def _count_received(original: Any, scheduler: Any, session: Any) -> None:
    before = set(scheduler._step_completed)
    original(scheduler, session)
    arrived = [scheduler._cache.get(i) for i in scheduler._step_completed - before]
    blocks = sum(len(entry.block_ids) for entry in arrived if entry is not None)
    total = getattr(scheduler, "epd_received_bytes", 0)
    scheduler.epd_received_bytes = total + blocks * scheduler._region.block_size_bytes


def _admit_what_is_here(
    original: Any, scheduler: Any, request: Any, feature: Any, computed_tokens: int, now_s: float
) -> bool:
    """Admit an image to prefill, unless its embedding is of this engine and not there any more."""
    if not original(scheduler, request, feature, computed_tokens, now_s):
        return False
    position = feature.mm_position
    announced = request.ec_transfer_params.get(feature.identifier)
    if announced is None or position.offset + position.length <= computed_tokens:
        return True
    entry = scheduler._cache.get(feature.identifier)
    if entry is None:
        raise ec_scheduling._RemoteUnavailable("it is not in this engine's cache any more")
    return bool(entry.ready)
