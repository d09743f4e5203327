"""The control loop's pods and reports on Kubernetes, over the fake of the API server."""

from datetime import UTC, datetime, timedelta

import pytest

from epd.api.names import ControlMode
from epd.policy.control_view import Decision, Flip, Reason, ReasonCode, Slo
from epd.vocabulary import (
    ASSIGNED_ROLE,
    COMPONENT_LABEL,
    FLIPPED_AT,
    LLM_D_ROLE_LABEL,
    ROLE_LABEL,
    Role,
)
from epd_operator.conditions import ConditionType
from epd_operator.control import report
from epd_operator.control.kubernetes import SETTLE_S, PodFleet
from epd_operator.control.loops import TELL_S, StatusReporter
from epd_operator.control.ports import FlipRefused, Pass
from epd_operator.control.seen_pods import MAX_AGE_S, SeenPods
from epd_operator.control.signals import traffic_of
from epd_operator.objects import Key, Kind, Ref

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEY = Key("ns", "demo")
UID = "uid-of-demo"
INF = float("inf")


def pod(name, role, ready=True, version="5", **metadata):
    owner = {"controller": True, "uid": UID, "kind": "EPDCluster", "name": "demo"}
    return {
        "metadata": {
            "name": name,
            "namespace": KEY.namespace,
            "uid": f"uid-of-{name}",
            "resourceVersion": version,
            "creationTimestamp": "2026-11-21T11:00:00Z",
            "labels": {ROLE_LABEL: role, COMPONENT_LABEL: "worker"},
            "ownerReferences": [owner],
            **metadata,
        },
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class OneServer:
    """Answers with the pods that a test sets, and notes patches."""

    def __init__(self, *pods):
        self.pods = pods
        self.patches = []
        self.lists = 0
        self.error = None

    async def list(self, kind, namespace, labels):
        self.lists += 1
        assert (kind, namespace) == (Kind.POD, KEY.namespace)
        return self.pods

    async def patch(self, ref, body, subresource=""):
        if self.error:
            raise self.error
        self.patches.append((ref, body))
        return {}


class FixedClock:
    def now(self):
        return NOW


class MovingClock:
    moment = NOW

    def now(self):
        return self.moment


def fleet(*pods):
    server = OneServer(*pods)
    return server, PodFleet(server, KEY, SeenPods(server, KEY, UID), FixedClock())


async def test_pods_that_leave_or_belong_to_others_are_not_the_loops():
    _, found = fleet(
        pod("a", "encode"),
        pod("b", "decode", ready=False),
        pod("c", "decode", deletionTimestamp="2026-11-21T12:00:00Z"),
        pod("d", "decode", annotations={"epd.dev/draining": "true"}),
        pod("e", "no-role"),
        pod("f", "decode", ownerReferences=[]),
    )
    pods = await found.pods()
    assert [(each.name, each.role, each.ready) for each in pods] == [
        ("a", Role.ENCODE, True),
        ("b", Role.DECODE, False),
    ]


@pytest.mark.parametrize(("ago_s", "settled"), [(SETTLE_S / 2, False), (SETTLE_S + 1, True)])
async def test_a_flip_is_in_flight_until_gateways_must_have_seen_it(ago_s, settled):
    at = (NOW - timedelta(seconds=ago_s)).isoformat().replace("+00:00", "Z")
    _, found = fleet(pod("a", "encode", annotations={FLIPPED_AT: at}))
    (one,) = await found.pods()
    assert one.settled is settled
    assert one.flipped_at_s == pytest.approx((NOW - timedelta(seconds=ago_s)).timestamp(), abs=1)


async def test_a_flip_is_one_patch_of_the_pod_that_was_seen():
    server, found = fleet(pod("a", "encode", version="77"))
    await found.pods()
    await found.flip(Flip("a", Role.ENCODE, Role.PREFILL))
    ((ref, body),) = server.patches
    assert ref == Ref(Kind.POD, "ns", "a")
    metadata = body["metadata"]
    assert metadata["resourceVersion"] == "77"
    assert metadata["labels"] == {ROLE_LABEL: "prefill", LLM_D_ROLE_LABEL: "prefill"}
    assert metadata["annotations"][ASSIGNED_ROLE] == "prefill"
    assert metadata["annotations"][FLIPPED_AT].startswith("2026-11-21T12:00:00")


async def test_a_pod_that_changed_meanwhile_is_not_flipped():
    from epd_operator.ports import ConflictError

    server, found = fleet(pod("a", "encode"))
    await found.pods()
    server.error = ConflictError("it has another version")
    with pytest.raises(FlipRefused, match="changed meanwhile"):
        await found.flip(Flip("a", Role.ENCODE, Role.PREFILL))


async def test_pods_are_listed_only_where_no_pass_has_seen_them_lately_and_after_a_flip():
    server, now_s = OneServer(pod("a", "encode")), [0.0]
    seen = SeenPods(server, KEY, UID, lambda: now_s[0])
    found = PodFleet(server, KEY, seen, FixedClock())
    seen.note([pod("a", "encode"), pod("b", "decode", version="9")])
    assert [each.name for each in await found.pods()] == ["a", "b"]
    assert server.lists == 0
    await found.flip(Flip("b", Role.DECODE, Role.PREFILL))
    assert server.patches[0][1]["metadata"]["resourceVersion"] == "9"
    assert [each.name for each in await found.pods()] == ["a"]
    assert server.lists == 1
    seen.note([])
    now_s[0] = MAX_AGE_S - 1
    assert await found.pods() == []
    now_s[0] = MAX_AGE_S
    assert [each.name for each in await found.pods()] == ["a"]
    assert server.lists == 2


def test_metrics_are_at_ready_pods_and_a_gateways_as_its_probe_speaks():
    ports = {"containers": [{"readinessProbe": {"httpGet": {"scheme": "HTTPS"}}}]}
    gateway, worker, starting = (
        pod(name, "decode", ready=ready) | {"spec": spec}
        for name, ready, spec in (("g", True, ports), ("w", True, {}), ("s", False, {}))
    )
    gateway["metadata"]["labels"][COMPONENT_LABEL] = "gateway"
    gateway["status"]["podIP"], worker["status"]["podIP"] = "10.0.0.1", "fd00::1"
    seen = SeenPods(OneServer(), KEY, UID)
    seen.note([gateway, worker, starting])
    urls = {each.pod.name: each.metrics_url for each in seen.pods}
    assert urls["g"].startswith("https://10.0.0.1:")
    assert urls["w"].startswith("http://[fd00::1]:")
    assert urls["s"] == ""


SLO = Slo(ttft_ms=1000, tpot_ms=50, attainment=0.9)
DESIRED = {Role.PREFILL: 3, Role.DECODE: 1}


def traffic(ttft_s=0.5, tpot_s=0.02):
    buckets = {
        "ttft": {("0.4",): 0.0, (str(ttft_s),): 10.0, ("+Inf",): 10.0},
        "tpot": {("0.01",): 0.0, (str(tpot_s),): 10.0, ("+Inf",): 10.0},
    }
    return traffic_of(buckets, window_s=20, age_s=0, workers=frozenset())


def judged(done):
    return {verdict.type: verdict for verdict in report.verdicts(done, SLO)}


def test_a_cluster_at_rest_is_balanced_and_meets_its_objective():
    hold = Reason(ReasonCode.BALANCED)
    done = Pass(Decision((), DESIRED, hold, (hold,)), traffic=traffic())
    found = judged(done)
    assert all(verdict.holds for verdict in found.values())
    assert found[ConditionType.SLO_MET].reason == "Met"


@pytest.mark.parametrize(
    ("slow", "reason"), [({"ttft_s": 2.5}, "TTFTBreached"), ({"tpot_s": 0.2}, "TPOTBreached")]
)
def test_a_breach_names_what_is_breached(slow, reason):
    done = Pass(Decision((), DESIRED), traffic=traffic(**slow))
    verdict = judged(done)[ConditionType.SLO_MET]
    assert (verdict.holds, verdict.reason) == (False, reason)


def test_without_metrics_nobody_can_tell():
    hold = Reason(ReasonCode.METRICS_STALE, "encode")
    done = Pass(Decision((), DESIRED, hold, (hold,)), problem="metrics: no gateway is ready")
    found = judged(done)
    assert found[ConditionType.METRICS_AVAILABLE].holds is False
    assert "no gateway is ready" in found[ConditionType.METRICS_AVAILABLE].message
    assert found[ConditionType.BALANCED].holds is None
    assert found[ConditionType.SLO_MET].holds is None


def test_a_flip_is_an_event_with_its_reasons_and_the_last_decision():
    flip = Flip("p1", Role.DECODE, Role.PREFILL)
    why = Reason(ReasonCode.DEMAND, "prefill", {"demand_pods": 2.5})
    done = Pass(Decision((flip,), DESIRED, None, (why,)), (flip,), traffic=traffic())
    (note,) = report.notes(done)
    assert note.message == ("p1: decode becomes prefill: Demand prefill: demand_pods=2.5")
    decided = report.last_decision(done, ControlMode.ACTIVE, NOW)
    assert decided["reason"] == "Flipped"
    assert decided["message"].startswith("flipped p1 decode to prefill; Demand prefill")


def test_shadow_says_what_it_would_do():
    flip = Flip("p1", Role.DECODE, Role.PREFILL)
    done = Pass(Decision((flip,), DESIRED), traffic=traffic())
    decided = report.last_decision(done, ControlMode.SHADOW, NOW)
    assert decided["message"].startswith("would flip p1 decode to prefill")
    assert not list(report.notes(done))


async def test_a_decision_that_says_nothing_new_is_not_written_again():
    server, clock = OneServer(), MovingClock()
    owner = {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": UID, "resourceVersion": "5"},
    }

    async def report_on(why):
        hold = Reason(ReasonCode.DEADBAND, "", {"gain": why})
        done = Pass(Decision((), DESIRED, hold, (hold,)), traffic=traffic())
        await StatusReporter(server, owner, ControlMode.ACTIVE, SLO, clock).report(done)
        for _, body in server.patches:
            owner["status"] = body["status"]
        wrote = len(server.patches)
        server.patches.clear()
        clock.moment += timedelta(seconds=TELL_S + 1)
        return wrote

    assert [await report_on(1), await report_on(1), await report_on(1)] == [1, 0, 0]
    assert [await report_on(2), await report_on(2)] == [1, 0]
