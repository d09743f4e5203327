"""Prompts that begin alike meet on one prefill pod, while it has no queue."""

import asyncio

from fake_cluster import until

from epd.vocabulary import Role

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
TEXT = "It is a truth universally acknowledged. " * 60


def conversation(number, turns):
    texts = [f"conversation {number}: {TEXT}"] * (2 * turns - 1)
    return [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]


def prompts_of(cluster):
    return {name: len(worker.submits) for name, worker in cluster.workers.items()}


async def test_a_conversation_goes_on_where_it_was_prefilled(make_cluster):
    cluster = await make_cluster(p1=P, p2=P, p3=P, d=D)
    for number in range(3):
        before = prompts_of(cluster)
        for turns in range(1, 6):
            seen = await cluster.stream(messages=conversation(number, turns))
            assert seen.done
        after = prompts_of(cluster)
        grown = sorted(after[name] - before[name] for name in ("p1", "p2", "p3"))
        assert grown == [0, 0, 5], f"conversation {number}"


async def test_prompts_that_are_not_alike_take_turns(make_cluster):
    cluster = await make_cluster(p1=P, p2=P, p3=P, d=D)
    for number in range(9):
        await cluster.stream(messages=conversation(number, 1))
    assert [prompts_of(cluster)[name] for name in ("p1", "p2", "p3")] == [3, 3, 3]


async def test_a_queue_sends_a_known_beginning_elsewhere(make_cluster):
    cluster = await make_cluster(p1=P, p2=P, d=D)
    await cluster.stream(messages=conversation(0, 1))
    home = next(name for name in ("p1", "p2") if cluster.workers[name].submits)
    for name in ("p1", "p2"):
        cluster.workers[name].gate.clear()
    streaming = [
        asyncio.ensure_future(cluster.stream(messages=conversation(0, 2))) for _ in range(4)
    ]
    await until(lambda: sum(prompts_of(cluster)[name] for name in ("p1", "p2")) == 5)
    other = {"p1": "p2", "p2": "p1"}[home]
    assert len(cluster.workers[other].submits) >= 1
    for name in ("p1", "p2"):
        cluster.workers[name].gate.set()
    assert all(seen.done for seen in await asyncio.gather(*streaming))
