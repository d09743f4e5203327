"""An API server that fails at random, and users who meddle, change nothing in the end."""

import random

import pytest
from fake_kubernetes import FakeKubernetes
from operator_world import World, manifest

from epd.vocabulary import ROLE_LABEL, Role
from epd_operator.objects import Kind, Ref, labels_of
from epd_operator.ports import ConflictError, RefusedError, UnavailableError

FAULTS = (
    UnavailableError("429 too many requests"),
    UnavailableError("500 internal error"),
    UnavailableError("timed out"),
    ConflictError("409 conflict"),
    RefusedError("Forbidden", "403 not now"),
)


def fail_now_and_then(server: FakeKubernetes, chance: random.Random) -> None:
    """Let one call in five fail: before it did anything, or after it did it."""

    def fail(verb: str, kind: str) -> None:
        if chance.random() < 0.1:
            raise chance.choice(FAULTS)

    server.before_call = server.after_call = fail


def meddle(world: World, chance: random.Random) -> None:
    """Do what users and nodes do."""
    pods = world.server.of(Kind.POD)
    pod = chance.choice(pods) if pods else None
    match chance.randrange(6):
        case 0 if pod:
            world.server.remove(Ref.to(pod))
        case 1 if pod:
            world.server.set_status(Ref.to(pod), {"phase": "Failed", "reason": "Evicted"})
        case 2 if pod:
            pod["metadata"]["labels"][ROLE_LABEL] = chance.choice(list(Role)).value
            world.server.put(pod)
        case 3:
            world.edit(replicas=chance.randint(3, 7))
        case 4:
            world.edit(podTemplate={"spec": {"nodeSelector": {"a": str(chance.random())}}})
        case 5:
            for each in world.server.of(Kind.SERVICE):
                world.server.remove(Ref.to(each))


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_failed_and_whoever_meddled_the_end_is_as_the_spec_asks(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    world = World()
    world.server.put(manifest(replicas=4))
    for _ in range(60):
        fail_now_and_then(world.server, chance)
        await world.one_pass()
        world.server.before_call = world.server.after_call = lambda verb, kind: None
        if chance.random() < 0.2:
            meddle(world, chance)
        if chance.random() < 0.1:
            world.start_operator()
        world.server.kubelet()
        world.server.deployments()
        world.clock.pass_s(chance.uniform(0, 5))
    await world.settle()
    wanted = world.cluster["spec"]["replicas"]
    assert sum(world.roles.values()) == wanted
    assert len({labels_of(pod)["epd.dev/revision"] for pod in world.pods}) == 1
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Stalled") == ("False", "Progressing")
    assert len(world.server.of(Kind.SERVICE)) == 1
    for pod in world.pods:
        assert labels_of(pod)[ROLE_LABEL] == labels_of(pod)["llm-d.ai/role"]
        assert "epd.dev/draining" not in labels_of(pod)
