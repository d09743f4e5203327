"""Handoffs lost on purpose: which, how many, and until when."""

import asyncio

import pytest

from epd.lossy_handoff import LossyHandoff
from epd.wire.messages import (
    Api,
    Completed,
    EcHandle,
    FailureKind,
    Generate,
    Image,
    KvHandle,
    Phase,
)
from epd_worker.engine import EngineError, StageClock
from epd_worker.lossy_engine import LossyEngine

NOW_S = 1000.0
KV = KvHandle("giver", "hash", "kv-1")
EC = EcHandle("giver", "hash", "ec-1")


class Inner:
    """Does whatever it is asked."""

    async def generate(self, *_):
        return Completed(1, 1)


def generation(kv=None, images=()):
    return Generate(Phase.DECODE, Api.CHAT_COMPLETIONS, b"{}", images=images, kv=kv)


@pytest.fixture
def orders(tmp_path):
    return tmp_path / "fault-taker.json"


def lost(orders, work, times=1):
    """Return how many of so many generations lost a handoff."""
    engine = LossyEngine(Inner(), "taker", orders, seed=7, clock=lambda: NOW_S)
    failures = []
    for _ in range(times):
        try:
            asyncio.run(engine.generate("r", work, lambda *_: None, StageClock(), 0))
        except EngineError as error:
            failures.append(error)
    assert {error.kind for error in failures} <= {FailureKind.HANDOFF_LOST}
    assert all("giver was lost on purpose" in error.message for error in failures)
    return len(failures)


@pytest.mark.parametrize(
    "work", [generation(KV), generation(images=[Image(ec=EC)])], ids=["KV", "EC"]
)
def test_what_comes_from_another_worker_is_lost_while_the_file_says_so(orders, work):
    assert lost(orders, work) == 0
    orders.write_text(LossyHandoff(1.0, NOW_S + 1).text())
    assert lost(orders, work) == 1
    orders.write_text(LossyHandoff(1.0, NOW_S - 1).text())
    assert lost(orders, work) == 0


def test_so_many_are_lost_as_the_share_says(orders):
    orders.write_text(LossyHandoff(0.25, NOW_S + 1).text())
    assert 30 <= lost(orders, generation(KV), times=200) <= 70


@pytest.mark.parametrize(
    "work",
    [
        generation(),
        generation(KvHandle("taker", "hash", "kv-1")),
        generation(images=[Image(ec=EC, local=True)]),
        generation(images=[Image(b"pixels")]),
    ],
    ids=["nothing to take", "its own KV", "its own EC", "pixels"],
)
def test_what_is_no_handoff_is_never_lost(orders, work):
    orders.write_text(LossyHandoff(1.0, NOW_S + 1).text())
    assert lost(orders, work) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"share": 1}', "{", '{"share": "x"}'])
def test_a_file_without_sense_loses_nothing(orders, text):
    orders.write_text(text)
    assert lost(orders, generation(KV)) == 0
