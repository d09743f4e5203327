"""What our engine mends in vLLM's reads of embeddings, seen without an engine around it."""

import pytest

pytestmark = pytest.mark.vllm

PEER = ("127.0.0.1", 9)


def test_a_peer_is_connected_to_again_at_once_after_its_connection_was_given_up() -> None:
    from vllm.distributed.ec_transfer.ec_connector.cpu.control.zmq import ZmqClientTransport

    from epd_worker.engine import vllm_core

    vllm_core.apply()
    transport = ZmqClientTransport()
    for _ in range(100):
        connection = transport.connect(PEER)
        assert transport.connect(PEER) is connection
        assert transport.remove(PEER) is connection
    transport.close()
