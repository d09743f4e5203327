"""Passes of the operator over a cluster in a fake Kubernetes."""

from collections import Counter

import pytest
from operator_world import World, manifest

from epd.vocabulary import ROLE_LABEL
from epd_operator.objects import Kind, Ref, labels_of


@pytest.fixture
def world() -> World:
    """Return a world with a cluster of three that nobody has looked at yet."""
    made = World()
    made.server.put(manifest())
    return made


async def test_a_new_cluster_gets_one_pod_for_each_role_and_a_gateway(world: World) -> None:
    await world.settle()
    assert world.roles == Counter({"encode": 1, "prefill": 1, "decode": 1})
    assert [each["metadata"]["name"] for each in world.server.of(Kind.DEPLOYMENT)] == [
        "demo-gateway"
    ]
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Reconciling") == ("False", "Settled")
    assert world.condition("Stalled") == ("False", "Progressing")


async def test_both_role_labels_always_agree(world: World) -> None:
    await world.settle()
    for pod in world.pods:
        assert labels_of(pod)["llm-d.ai/role"] == labels_of(pod)[ROLE_LABEL]


async def test_a_pass_that_finds_all_well_writes_nothing(world: World) -> None:
    await world.settle()
    world.server.calls.clear()
    await world.one_pass()
    assert {verb for verb, _ in world.server.calls} == {"get", "list"}


async def test_a_lost_pod_comes_back_in_its_role(world: World) -> None:
    await world.settle()
    lost = next(pod for pod in world.pods if labels_of(pod)[ROLE_LABEL] == "prefill")
    world.server.remove(Ref.to(lost))
    await world.settle()
    assert world.roles == Counter({"encode": 1, "prefill": 1, "decode": 1})


async def test_scaling_up_keeps_the_pods_that_are_there(world: World) -> None:
    await world.settle()
    before = {pod["metadata"]["uid"] for pod in world.pods}
    world.edit(replicas=8)
    await world.settle()
    assert sum(world.roles.values()) == 8
    assert before <= {pod["metadata"]["uid"] for pod in world.pods}
    assert world.roles == Counter({"encode": 2, "prefill": 3, "decode": 3})
