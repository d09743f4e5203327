"""One session: slices to their calls, one frame a turn, and nothing left of calls that are over."""

import asyncio
import math

import grpc.aio
import pytest
from fake_cluster import until

from epd.vocabulary import Stage
from epd.wire.messages import (
    Api,
    Completed,
    EcHandle,
    Encode,
    Failure,
    FailureKind,
    Generate,
    Image,
    KvHandle,
    Outcome,
    Phase,
    Prefilled,
    WorkerFrame,
)
from epd_gateway.calls import CallFailed, Reason
from epd_gateway.session import Session

WORK = Generate(Phase.WHOLE, Api.CHAT_COMPLETIONS, b"{}")


class FakeRpc:
    """The gRPC call of a session, as a list of what was written."""

    def __init__(self):
        self.written = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.incoming = asyncio.Queue()
        self.cancelled = False

    async def write(self, frame):
        await self.may_write.wait()
        self.written.append(frame)

    async def read(self):
        return await self.incoming.get()

    def cancel(self):
        self.cancelled = True


class Bench:
    def __init__(self):
        self.rpc = FakeRpc()
        self.ended = []
        self.events = []
        self.session = Session(self.rpc, "w", self.ended.append, idle_s=30.0, release_delay_s=0.01)
        self.running = asyncio.ensure_future(self.session.run())

    def submit(self, work=WORK, **options):
        options.setdefault("first_s", 60.0)
        options.setdefault("take", lambda payload, ids: self.events.append((payload, ids)))
        return self.session.submit(work, Stage.PREFILL, "r", **options)

    async def turn(self):
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
async def bench():
    bench = Bench()
    yield bench
    bench.running.cancel()
    await asyncio.gather(bench.running, return_exceptions=True)


def ids(*tokens):
    return b"".join(token.to_bytes(4, "little") for token in tokens)


async def test_a_step_is_cut_into_its_events(bench):
    events = {1: [], 2: []}
    calls = [bench.submit(take=lambda *event, n=n: events[n].append(event)) for n in (1, 2)]
    assert [call.stream for call in calls] == [1, 2]
    await bench.session.on_frame(
        WorkerFrame([2, 1, 2], [2, 0, 3], [1, 2, 0], b"abcde", ids(7, 8, 9))
    )
    assert events[2] == [(b"ab", ids(7)), (b"cde", b"")]
    assert events[1] == [(b"", ids(8, 9))]
    assert (bench.session.events_total, bench.session.event_bytes_total) == (3, 5)


async def test_what_else_has_come_does_not_wait_for_a_whole_large_step(bench):
    order = []
    calls = [bench.submit(take=lambda *_: order.append("event")) for _ in range(100)]
    streams = [call.stream for call in calls]
    asyncio.get_running_loop().call_soon(order.append, "request")
    await bench.session.on_frame(WorkerFrame(streams, [1] * 100, [0] * 100, b"x" * 100))
    assert order.count("event") == 100
    assert order.index("request") < 50


async def test_events_come_before_the_outcome_of_their_frame(bench):
    order = []
    call = bench.submit(
        take=lambda payload, ids: order.append(payload),
        on_completed=lambda outcome: order.append("completed"),
    )
    outcome = Outcome(call.stream, Completed(1, 2))
    await bench.session.on_frame(WorkerFrame([1], [1], [0], b"x", b"", [outcome]))
    assert order == [b"x", "completed"]
    assert await call.outcome() is outcome
    assert bench.ended == [call]
    assert bench.session.in_flight == 0


async def test_a_failure_is_raised_with_its_reason(bench):
    call = bench.submit()
    failure = Failure(FailureKind.REFUSED, "no", 400, b"{}")
    await bench.session.on_frame(WorkerFrame(outcomes=[Outcome(call.stream, failure)]))
    with pytest.raises(CallFailed) as failed:
        await call.outcome()
    assert failed.value.reason is Reason.REFUSED
    assert (failed.value.status, failed.value.body, failed.value.worker) == (400, b"{}", "w")


async def test_submits_of_one_turn_leave_as_one_frame(bench):
    calls = [bench.submit() for _ in range(5)]
    bench.session.cancel(calls[0])
    await bench.turn()
    (frame,) = bench.rpc.written
    assert [submit.stream for submit in frame.submits] == [2, 3, 4, 5]


async def test_what_gathers_during_a_write_leaves_together(bench):
    bench.rpc.may_write.clear()
    bench.submit()
    await bench.turn()
    for _ in range(3):
        bench.submit()
        await bench.turn()
    bench.rpc.may_write.set()
    await bench.turn()
    assert [[s.stream for s in frame.submits] for frame in bench.rpc.written] == [[1], [2, 3, 4]]


async def test_large_submits_leave_in_frames_of_their_own(bench):
    large = Encode(Image(b"x" * (20 << 20), "image/png"))
    for _ in range(4):
        bench.submit(large)
    await bench.turn()
    await bench.turn()
    assert [len(frame.submits) for frame in bench.rpc.written] == [2, 2]


async def test_a_call_that_never_left_is_not_cancelled_upstream(bench):
    call = bench.submit()
    bench.session.cancel(call)
    await bench.turn()
    assert all(not frame.submits and not frame.cancels for frame in bench.rpc.written)


async def test_a_call_under_way_is_cancelled_upstream_once(bench):
    call = bench.submit()
    await bench.turn()
    bench.session.cancel(call)
    bench.session.cancel(call)
    await bench.turn()
    assert bench.rpc.written[-1].cancels == [1]
    assert len(bench.rpc.written) == 2
    assert bench.ended == [call]


async def test_a_call_of_an_older_session_cannot_cancel_another(bench):
    stranger = Bench()
    old = stranger.submit()
    bench.submit()
    bench.session.cancel(old)
    assert bench.session.in_flight == 1
    stranger.running.cancel()
    await asyncio.gather(stranger.running, return_exceptions=True)


async def test_what_a_cancelled_call_produced_is_released(bench):
    calls = [bench.submit(), bench.submit()]
    await bench.turn()
    for call in calls:
        bench.session.cancel(call)
    outcomes = [
        Outcome(1, Prefilled(KvHandle("w", "h", "kv-1"))),
        Outcome(2, EcHandle("w", "h", "ec-1")),
    ]
    await bench.session.on_frame(WorkerFrame(outcomes=outcomes))
    await until(lambda: any(frame.release_kv for frame in bench.rpc.written))
    assert bench.rpc.written[-1].release_kv == ["kv-1"]
    assert bench.rpc.written[-1].release_ec == ["ec-1"]


async def test_releases_travel_with_the_next_submit(bench):
    bench.session.release(kv=["kv"], ec=["ec"])
    bench.submit()
    await bench.turn()
    (frame,) = bench.rpc.written
    assert (len(frame.submits), frame.release_kv, frame.release_ec) == (1, ["kv"], ["ec"])


async def test_releases_leave_alone_after_a_while(bench):
    bench.session.release(kv=["kv"])
    await bench.turn()
    assert bench.rpc.written == []
    await until(lambda: bench.rpc.written)
    assert bench.rpc.written[0].release_kv == ["kv"]


async def test_events_of_unknown_streams_are_dropped(bench):
    bench.submit()
    await bench.session.on_frame(WorkerFrame([9, 1], [1, 1], [0, 0], b"ab"))
    assert bench.events == [(b"b", b"")]


async def test_a_sink_that_breaks_ends_its_own_call_only(bench):
    def broken(payload, ids):
        raise RuntimeError("broken")

    bad, good = bench.submit(take=broken), bench.submit()
    await bench.turn()
    await bench.session.on_frame(WorkerFrame([1, 2], [1, 1], [0, 0], b"ab"))
    assert bench.events == [(b"b", b"")]
    with pytest.raises(CallFailed) as failed:
        await bad.outcome()
    assert failed.value.reason is Reason.INTERNAL
    assert not good.done.done()


async def test_calls_out_of_time_fail_and_are_cancelled(bench):
    call = bench.submit(first_s=5.0)
    other = bench.submit(first_s=50.0)
    await bench.turn()
    assert bench.session.expire(call.started_s + 4.9) == []
    assert bench.session.expire(call.started_s + 5.1) == [call]
    with pytest.raises(CallFailed) as failed:
        await call.outcome()
    assert failed.value.reason is Reason.DEADLINE
    assert not other.done.done()
    await bench.turn()
    assert bench.rpc.written[-1].cancels == [1]


async def test_an_event_gives_a_call_time_until_the_next(bench):
    call = bench.submit(first_s=5.0)
    await bench.session.on_frame(WorkerFrame([1], [0], [1], b"", ids(1)))
    assert bench.session.expire(call.started_s + 29) == []
    assert bench.session.expire(call.started_s + 31) == [call]


async def test_a_call_has_a_limit_that_events_do_not_move(bench):
    call = bench.submit(first_s=math.inf, limit_s=1000.0)
    assert bench.session.expire(999.0) == []
    assert bench.session.expire(1000.0) == [call]


async def test_when_the_worker_hangs_up_the_session_ends(bench):
    bench.rpc.incoming.put_nowait(grpc.aio.EOF)
    await bench.running
    assert bench.rpc.cancelled


async def test_all_calls_fail_together(bench):
    calls = [bench.submit(), bench.submit()]
    bench.session.fail_all(Reason.DISCONNECTED, "gone")
    for call in calls:
        with pytest.raises(CallFailed, match="gone"):
            await call.outcome()
    assert bench.ended == calls
