"""The operator is killed between any two of its API calls: the end is the same.

Every scenario is run once undisturbed, which lists its calls. Then it is run again for each of
them, with the operator killed just after the server did what it was asked, and before the operator
heard of it; a new operator, which knows nothing, takes over.
"""

from collections.abc import Awaitable, Callable

import pytest
from operator_world import World, manifest

from epd_operator.objects import Ref

Scenario = Callable[[World], Awaitable[None]]

# Every call site of the operator: verb and kind. A new one must be listed, and is then killed at.
CALL_SITES = {
    ("get", "EPDCluster"),
    ("get", "Secret"),
    ("get", "ConfigMap"),
    ("get", "Deployment"),
    ("get", "NetworkPolicy"),
    ("get", "PodDisruptionBudget"),
    ("get", "Role"),
    ("get", "RoleBinding"),
    ("get", "Service"),
    ("get", "ServiceAccount"),
    ("list", "Pod"),
    ("create", "Secret"),
    ("create", "Pod"),
    ("create", "Event"),
    ("get", "Event"),
    ("patch", "Event"),
    ("apply", "Secret"),
    ("apply", "ConfigMap"),
    ("apply", "Deployment"),
    ("apply", "NetworkPolicy"),
    ("apply", "PodDisruptionBudget"),
    ("apply", "Role"),
    ("apply", "RoleBinding"),
    ("apply", "Service"),
    ("apply", "ServiceAccount"),
    ("patch", "EPDCluster"),
    ("patch", "EPDCluster/status"),
    ("patch", "Pod"),
    ("delete", "Pod"),
    ("delete", "Deployment"),
}


class KilledError(BaseException):
    """The operator's process is gone."""


async def begins(world: World) -> None:
    """A cluster is applied."""


async def grows(world: World) -> None:
    world.edit(replicas=4)


async def shrinks(world: World) -> None:
    world.edit(replicas=1)


async def is_upgraded(world: World) -> None:
    world.edit(podTemplate={"spec": {"nodeSelector": {"zone": "b"}}})


async def is_upgraded_in_place(world: World) -> None:
    world.edit(podTemplate={"spec": {"nodeSelector": {"zone": "b"}}}, rollout={"type": "InPlace"})


async def loses_a_pod(world: World) -> None:
    world.server.remove(Ref.to(world.pods[0]))


async def changes_its_method(world: World) -> None:
    world.edit(method="EPD")


async def renews_its_certificates(world: World) -> None:
    world.clock.pass_s(80 * 24 * 3600)


async def is_deleted(world: World) -> None:
    world.server.mark_deleted(world.ref)


SCENARIOS = (
    begins,
    grows,
    shrinks,
    is_upgraded,
    is_upgraded_in_place,
    loses_a_pod,
    changes_its_method,
    renews_its_certificates,
    is_deleted,
)


settled: list[bytes] = []


async def prepared(scenario: Scenario) -> World:
    """Return a world in which the scenario has just begun."""
    world = World()
    if scenario is begins:
        world.server.put(manifest(replicas=2))
    else:
        if not settled:
            first = World()
            first.server.put(manifest(replicas=2))
            await first.settle()
            settled.append(first.server.saved())
        world.server.restore(settled[0])
    await scenario(world)
    world.server.calls.clear()
    return world


async def run_killed_at(scenario: Scenario, at: int, *, after: bool) -> World:
    """Run a scenario; the operator dies at its call number `at`, and another takes over."""
    world = await prepared(scenario)
    made = 0

    def count(verb: str, kind: str) -> None:
        nonlocal made
        made += 1
        if made == at:
            raise KilledError(f"{verb} {kind}")

    if after:
        world.server.after_call = count
    else:
        world.server.before_call = count
    with pytest.raises(KilledError):
        await world.settle()
    world.server.before_call = world.server.after_call = lambda verb, kind: None
    world.start_operator()
    await world.settle()
    return world


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_end_is_the_same_wherever_the_operator_was_killed(scenario: Scenario) -> None:
    undisturbed = await prepared(scenario)
    await undisturbed.settle()
    wanted, calls = undisturbed.end_state(), list(undisturbed.server.calls)
    assert set(calls) <= CALL_SITES
    reads_seen: set[tuple[str, str]] = set()
    for number, site in enumerate(calls, start=1):
        # What is killed after a write is killed before whatever comes next; a read changes nothing,
        # so that one of its kind stands for all.
        is_read = site[0] in ("get", "list")
        if is_read and site in reads_seen:
            continue
        reads_seen.add(site)
        world = await run_killed_at(scenario, number, after=not is_read)
        where = f"{scenario.__name__}, call {number}: {' '.join(site)}"
        assert world.end_state() == wanted, where


async def test_every_call_site_is_reached_by_a_scenario() -> None:
    seen: set[tuple[str, str]] = set()
    for scenario in SCENARIOS:
        world = await prepared(scenario)
        await world.settle()
        seen.update(world.server.calls)
    assert CALL_SITES - seen == set(), "these are listed and never made"
