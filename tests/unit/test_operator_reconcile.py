"""Passes of the operator over a cluster in a fake Kubernetes."""

from collections import Counter

import pytest
from fake_kubernetes import running
from operator_world import World, manifest

from epd.vocabulary import DRAINING, ROLE_LABEL, Component
from epd_operator.objects import Key, Kind, Ref, labels_of
from epd_operator.ports import RefusedError
from epd_operator.wanted import labels


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


async def test_a_pod_that_serves_is_drained_before_it_is_deleted(world: World) -> None:
    await world.settle()
    world.workers.default = 3
    world.edit(replicas=2, method="EP-D")
    for _ in range(10):
        await world.one_pass()
        world.clock.pass_s(1)
    drained = [pod for pod in world.pods if labels_of(pod).get(DRAINING) == "true"]
    assert len(world.pods) == 3
    assert len(drained) == 1
    world.workers.default = 0
    await world.settle()
    assert Ref.to(drained[0]) not in world.server.objects


async def test_a_pod_that_is_never_idle_goes_at_the_deadline(world: World) -> None:
    await world.settle()
    world.workers.default = 3
    world.edit(replicas=2, method="EP-D", rollout={"drainSeconds": 60})
    await world.one_pass()
    await world.one_pass()
    world.clock.pass_s(59)
    await world.one_pass()
    assert len(world.pods) == 3
    world.clock.pass_s(2)
    await world.one_pass()
    assert len(world.pods) == 2


async def test_the_pod_with_least_work_goes(world: World) -> None:
    world.edit(replicas=7)
    await world.settle()
    decoders = [pod for pod in world.pods if labels_of(pod)[ROLE_LABEL] == "decode"]
    for number, pod in enumerate(decoders):
        address = f"10.1.0.{number}"
        world.server.set_status(Ref.to(pod), running(address))
        world.workers.work[address] = 5 if number else 1
    world.workers.default = 9
    world.edit(replicas=6)
    await world.one_pass()
    drained = [pod for pod in world.pods if labels_of(pod).get(DRAINING) == "true"]
    assert [pod["metadata"]["name"] for pod in drained] == [decoders[0]["metadata"]["name"]]


async def test_a_pod_that_does_not_serve_goes_before_one_that_does(world: World) -> None:
    world.edit(replicas=6)
    await world.settle()
    ailing = world.pods[3]
    world.server.set_status(Ref.to(ailing), {"phase": "Pending"})
    world.edit(replicas=5)
    await world.one_pass()
    assert Ref.to(ailing) not in {Ref.to(pod) for pod in world.pods}


async def test_no_role_loses_its_last_pod_when_the_fleet_shrinks(world: World) -> None:
    world.edit(replicas=6)
    await world.settle()
    world.edit(replicas=3)
    await world.settle()
    assert world.roles == Counter({"encode": 1, "prefill": 1, "decode": 1})


async def test_a_pod_on_its_way_out_is_called_back_when_the_fleet_grows_again(
    world: World,
) -> None:
    await world.settle()
    world.workers.default = 1
    before = {pod["metadata"]["uid"] for pod in world.pods}
    world.edit(replicas=2, method="EP-D")
    await world.one_pass()
    world.edit(replicas=3, method="E-P-D")
    await world.settle()
    assert {pod["metadata"]["uid"] for pod in world.pods} == before
    assert not [pod for pod in world.pods if DRAINING in labels_of(pod)]


@pytest.mark.parametrize(("kind", "least", "most"), [("Surge", 3, 4), ("InPlace", 2, 3)])
async def test_an_upgrade_keeps_pods_serving_and_stays_within_its_room(
    world: World, kind: str, least: int, most: int
) -> None:
    await world.settle()
    old = {pod["metadata"]["uid"] for pod in world.pods}
    world.edit(podTemplate={"spec": {"nodeSelector": {"gpu": "h200"}}}, rollout={"type": kind})
    for _ in range(60):
        await world.one_pass()
        serving = [
            pod
            for pod in world.pods
            if labels_of(pod).get(DRAINING) != "true" and pod.get("status")
        ]
        assert len(serving) >= least
        assert len(world.server.of(Kind.POD)) <= most
        world.server.kubelet()
        world.clock.pass_s(4)
    await world.settle()
    assert not old & {pod["metadata"]["uid"] for pod in world.pods}
    assert world.roles == Counter({"encode": 1, "prefill": 1, "decode": 1})
    assert {pod["spec"]["nodeSelector"]["gpu"] for pod in world.pods} == {"h200"}


async def test_an_upgrade_to_a_broken_image_stops_at_the_first_pod(world: World) -> None:
    await world.settle()
    world.edit(podTemplate={"spec": {"nodeSelector": {"gpu": "none"}}})
    for _ in range(20):
        await world.one_pass()
        world.server.kubelet(is_ready=lambda pod: "nodeSelector" not in pod["spec"])
        world.clock.pass_s(4)
    assert len(world.pods) == 4
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Reconciling") == ("True", "Upgrading")


async def test_a_users_flip_stays_and_llm_ds_label_follows(world: World) -> None:
    world.edit(replicas=4)
    await world.settle()
    pod = next(pod for pod in world.pods if labels_of(pod)[ROLE_LABEL] == "decode")
    pod["metadata"]["labels"][ROLE_LABEL] = "prefill"
    world.server.put(pod)
    await world.settle()
    assert world.roles == Counter({"encode": 1, "prefill": 2, "decode": 1})
    for each in world.pods:
        assert labels_of(each)["llm-d.ai/role"] == labels_of(each)[ROLE_LABEL]
    world.server.remove(Ref.to(pod))
    await world.settle()
    assert world.roles == Counter({"encode": 1, "prefill": 2, "decode": 1})


async def test_a_users_flip_is_put_back_where_the_spec_says_so(world: World) -> None:
    world.edit(control={"roleEdits": "Revert"})
    await world.settle()
    pod = next(pod for pod in world.pods if labels_of(pod)[ROLE_LABEL] == "encode")
    pod["metadata"]["labels"][ROLE_LABEL] = "decode"
    world.server.put(pod)
    await world.settle()
    assert world.roles == Counter({"encode": 1, "prefill": 1, "decode": 1})


async def test_a_label_that_is_no_role_is_put_right(world: World) -> None:
    await world.settle()
    pod = world.pods[0]
    was = labels_of(pod)[ROLE_LABEL]
    pod["metadata"]["labels"][ROLE_LABEL] = "chef"
    world.server.put(pod)
    await world.settle()
    assert labels_of(world.server.objects[Ref.to(pod)])[ROLE_LABEL] == was


async def test_another_method_flips_the_pods_and_restarts_none(world: World) -> None:
    await world.settle()
    before = {pod["metadata"]["uid"] for pod in world.pods}
    world.edit(method="EPD")
    await world.settle()
    assert world.roles == Counter({"encode-prefill-decode": 3})
    assert {pod["metadata"]["uid"] for pod in world.pods} == before


async def test_an_evicted_pod_is_replaced_and_not_in_a_storm(world: World) -> None:
    await world.settle()
    pod = world.pods[0]
    world.edit(replicas=4)
    world.server.set_status(Ref.to(pod), {"phase": "Failed", "reason": "Evicted"})
    await world.settle()
    assert (
        Ref.to(pod) not in world.server.objects
        or world.server.objects[Ref.to(pod)]["metadata"]["uid"] != pod["metadata"]["uid"]
    )
    assert sum(world.roles.values()) == 4


async def test_a_pod_that_a_user_drains_is_replaced(world: World) -> None:
    await world.settle()
    pod = world.pods[0]
    pod["metadata"]["labels"][DRAINING] = "true"
    world.server.put(pod)
    await world.settle()
    assert pod["metadata"]["uid"] not in {each["metadata"]["uid"] for each in world.pods}
    assert sum(world.roles.values()) == 3


async def test_a_refused_pod_stalls_the_cluster_and_says_why(world: World) -> None:
    def refuse(verb: str, kind: str) -> None:
        if (verb, kind) == ("create", "Pod"):
            raise RefusedError("QuotaExceeded", "pods is forbidden: exceeded quota: pods=2")

    world.server.before_call = refuse
    for _ in range(4):
        outcome = await world.one_pass()
    assert outcome.has_failed
    assert world.condition("Stalled") == ("True", "QuotaExceeded")
    assert world.condition("Ready") == ("False", "PodsNotReady")
    world.server.before_call = lambda verb, kind: None
    await world.settle()
    assert world.condition("Stalled") == ("False", "Progressing")


async def test_an_object_of_somebody_else_is_left_alone(world: World) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo-gateway", "namespace": "default"},
        "spec": {"ports": [{"port": 1}]},
    }
    world.server.put(theirs)
    for _ in range(6):
        await world.one_pass()
    service = world.server.objects[Ref(Kind.SERVICE, "default", "demo-gateway")]
    assert service["spec"] == {"ports": [{"port": 1}]}
    assert world.condition("Stalled") == ("True", "NameTaken")


async def test_a_pod_name_that_is_taken_is_passed_over(world: World) -> None:
    theirs = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "demo-1"}, "spec": {}}
    theirs["metadata"]["namespace"] = "default"
    world.server.put(theirs)
    await world.settle()
    names = {pod["metadata"]["name"] for pod in world.pods} - {"demo-1"}
    assert names == {"demo-0", "demo-2", "demo-3"}


async def test_two_clusters_of_one_namespace_do_not_touch_each_other(world: World) -> None:
    await world.settle()
    world.server.put(manifest("demo-1", replicas=2))
    world.key = Key("default", "demo-1")
    await world.settle()
    world.edit(replicas=1)
    await world.settle()
    pods = Counter(labels_of(pod)["epd.dev/cluster"] for pod in world.pods)
    assert pods == Counter({"demo": 3, "demo-1": 1})


async def test_what_somebody_changed_in_our_objects_is_put_back(world: World) -> None:
    await world.settle()
    ref = Ref(Kind.SERVICE, "default", "demo-gateway")
    service = world.server.objects[ref]
    service["spec"]["selector"] = {"app": "other"}
    world.server.put(service)
    await world.settle()
    assert world.server.objects[ref]["spec"]["selector"]["epd.dev/cluster"] == "demo"


async def test_a_deleted_cluster_ends_its_gateways_first_and_is_gone(world: World) -> None:
    await world.settle()
    world.server.mark_deleted(world.ref)
    await world.one_pass()
    assert not world.server.of(Kind.DEPLOYMENT)
    await world.settle()
    assert world.ref not in world.server.objects
    world.server.kubelet()
    kinds = {ref.kind for ref in world.server.objects}
    assert kinds <= {Kind.EVENT}


async def test_a_deletion_never_hangs_though_a_gateway_does(world: World) -> None:
    await world.settle()
    stuck = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "demo-gateway-x",
            "namespace": "default",
            "labels": labels("demo", Component.GATEWAY),
        },
        "spec": {},
    }
    world.server.put(stuck)
    world.server.mark_deleted(world.ref)
    await world.one_pass()
    await world.one_pass()
    assert world.ref in world.server.objects
    world.clock.pass_s(91)
    await world.one_pass()
    assert world.ref not in world.server.objects


async def test_a_cluster_with_an_unusable_spec_can_be_deleted_and_says_what_is_wrong(
    world: World,
) -> None:
    await world.settle()
    world.edit(replicas=0)
    await world.one_pass()
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert len(world.pods) == 3
    world.server.mark_deleted(world.ref)
    await world.settle()
    assert world.ref not in world.server.objects


async def test_trouble_of_a_pod_is_told_in_kubernetes_own_word(world: World) -> None:
    await world.settle()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    status = {"phase": "Pending", "containerStatuses": [{"name": "worker", "state": waiting}]}
    world.server.set_status(Ref.to(world.pods[0]), status)
    await world.one_pass()
    assert world.condition("Stalled") == ("True", "ImagePullBackOff")
    assert world.condition("Ready") == ("False", "PodsNotReady")


async def test_nothing_is_written_once_another_operator_leads(world: World) -> None:
    world.operator.may_write = lambda: False
    outcome = await world.one_pass()
    assert outcome.has_failed
    assert {verb for verb, _ in world.server.calls} <= {"get", "list"}


async def test_an_event_is_posted_once_for_each_change(world: World) -> None:
    await world.settle()
    assert world.reasons()["PodCreated"] == 3
    assert world.reasons()["Ready"] == 1
