"""What a worker may not have been told to let go: kept as long as it matters, and no longer."""

from epd.wire.messages import EcHandle, KvHandle
from epd_gateway.releases import HEARD_LATER_S, MOST_OWED, OwedReleases

LEASE_S = 60


def kv(name):
    return KvHandle("w", "h", name, lease_ms=1000 * LEASE_S)


def ec(name):
    return EcHandle("w", "h", name, lease_ms=1000 * LEASE_S)


def owing(*handles, now_s=0.0):
    owed = OwedReleases()
    for handle in handles:
        owed.add(handle, now_s)
    return owed


def test_what_may_have_been_lost_is_sent_again_by_kind_and_in_order():
    owed = owing(kv("k1"), ec("e1"), kv("k2"), ec("e1"))
    assert owed.send_again(1.0) == (["k1", "k2"], ["e1", "e1"])


def test_a_worker_that_was_heard_later_has_got_it():
    owed = owing(kv("old"))
    owed.add(kv("new"), 5.0)
    owed.settle(5.0)
    assert owed.send_again(5.0) == (["new"], [])


def test_a_worker_that_was_heard_just_then_may_have_frozen_before_it_read_on():
    owed = owing(kv("k"))
    owed.settle(0.9 * HEARD_LATER_S)
    assert len(owed) == 1


def test_what_was_sent_again_is_owed_until_the_worker_is_heard_after_that():
    owed = owing(ec("e"))
    owed.send_again(30.0)
    owed.settle(30.5)
    assert owed.send_again(40.0) == ([], ["e"])
    owed.settle(40.0 + HEARD_LATER_S)
    assert not owed


def test_nothing_is_sent_again_whose_lease_has_ended():
    owed = owing(kv("k"))
    owed.add(kv("later"), 1.0)
    assert owed.send_again(LEASE_S + 0.5) == (["later"], [])
    assert len(owed) == 1


def test_a_worker_that_never_comes_back_costs_little_memory():
    owed = owing(*(kv(str(number)) for number in range(MOST_OWED + 3)))
    assert len(owed) == MOST_OWED
    assert owed.send_again(1.0)[0][0] == "3"
