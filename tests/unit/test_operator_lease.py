"""Which of two operators works."""

from fake_kubernetes import FakeKubernetes

from epd_operator.lease import DURATION_S, RENEW_DEADLINE_S, RETRY_S, Lease
from epd_operator.objects import Kind
from epd_operator.ports import UnavailableError


class Candidates:
    """Two operators, one server, one clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.server = FakeKubernetes()
        self.a = Lease(self.server, "epd-system", "a", lambda: self.now_s)
        self.b = Lease(self.server, "epd-system", "b", lambda: self.now_s)

    def cut_off(self) -> None:
        """Let nobody reach the server."""

        def refuse(verb: str, kind: str) -> None:
            raise UnavailableError("gone")

        self.server.before_call = refuse


async def test_the_first_to_ask_leads_and_the_other_does_not() -> None:
    two = Candidates()
    assert await two.a.try_once()
    assert not await two.b.try_once()
    assert (two.a.is_leading, two.b.is_leading) == (True, False)


async def test_a_leader_that_renews_stays() -> None:
    two = Candidates()
    await two.a.try_once()
    for _ in range(20):
        two.now_s += RETRY_S
        assert await two.a.try_once()
        assert not await two.b.try_once()


async def test_a_leader_that_falls_silent_is_followed_and_never_joined() -> None:
    two = Candidates()
    await two.a.try_once()
    await two.b.try_once()
    led_until_s = None
    while not await two.b.try_once():
        two.now_s += 0.5
        if not two.a.is_leading and led_until_s is None:
            led_until_s = two.now_s
    assert led_until_s is not None
    assert led_until_s <= 1000.0 + RENEW_DEADLINE_S + 0.5
    assert two.now_s >= 1000.0 + DURATION_S
    assert not two.a.is_leading


async def test_a_leader_without_a_server_stops_before_another_may_begin() -> None:
    two = Candidates()
    await two.a.try_once()
    two.cut_off()
    two.now_s += RENEW_DEADLINE_S - 1
    assert await two.a.try_once()
    two.now_s += 1.5
    assert not await two.a.try_once()


async def test_a_leader_that_leaves_in_order_is_followed_at_once() -> None:
    two = Candidates()
    await two.a.try_once()
    await two.a.release()
    assert not two.a.is_leading
    assert await two.b.try_once()
    (lease,) = two.server.of(Kind.LEASE)
    assert lease["spec"]["leaseTransitions"] == 1


async def test_a_stale_claim_by_another_clock_counts_from_when_it_was_seen() -> None:
    two = Candidates()
    await two.a.try_once()
    two.now_s += 10 * DURATION_S
    # Never seen before: it may have been renewed a moment ago, whatever its time says.
    assert not await two.b.try_once()
    two.now_s += DURATION_S
    assert await two.b.try_once()
