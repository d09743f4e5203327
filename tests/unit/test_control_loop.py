"""One pass of the control loop over a fleet and metrics that a test sets."""

from dataclasses import replace

import pytest
from kept_spans import KeptSpans

from epd.api import load_cluster
from epd.api.names import ControlMode
from epd.policy.control_view import Flip, ReasonCode
from epd.policy.curves import CostCurves, Curve
from epd.vocabulary import Role, Stage
from epd_operator.control.loop import Controller, Memory
from epd_operator.control.ports import (
    CountingBegun,
    FleetPod,
    FlipRefused,
    MetricsUnavailable,
)
from epd_operator.control.signals import Traffic
from epd_operator.control.translate import Known, aim_of, learnt, view_of

CLUSTER = """
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {name: c}
spec:
  model: {source: m, servedName: m}
  engine: {type: Simulated}
  replicas: 6
  method: E-P-D
  roles: [{name: Encode, min: 1, max: 4}]
  slo: {ttftMilliseconds: 800, tpotMilliseconds: 40, attainmentPercent: 95}
  control: {cooldownSeconds: 5, maxConcurrentFlips: 2}
"""
CURVES = CostCurves(
    source="test",
    image_ms=Curve(((0.0, 20.0),)),
    prefill_ms=Curve(((0.0, 0.0), (1000.0, 100.0))),
    decode_ms=Curve(((1.0, 10.0), (100.0, 30.0))),
)
ROLES = (Role.ENCODE, Role.ENCODE, Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE)


def traffic(prompts=0.0, images=0.0, prompt_tokens=500.0, output_tokens=11.0, **fields):
    """Return steady traffic of so many prompts and images a second."""
    each = dict.fromkeys(Stage, prompts)
    return Traffic(
        window_s=20.0,
        age_s=0.0,
        workers=frozenset(f"p{n}" for n in range(6)),
        started=each,
        finished={**each, Stage.ENCODE: images},
        service_s={Stage.ENCODE: images * 0.05, Stage.PREFILL: prompts * 0.07, Stage.DECODE: 0.0},
        tokens={Stage.ENCODE: images * 256, Stage.PREFILL: prompts * prompt_tokens},
        waiting={},
        running={},
        running_tokens=0.0,
        images=images,
        accepted={"0": prompts},
        answered={"0": prompts},
        output_tokens={"0": prompts * output_tokens},
        ttft_ms=(),
        tpot_ms=(),
        **fields,
    )


class World:
    """Fleet, metrics, reporter and clock in one."""

    def __init__(self):
        self.now_s = 1000.0
        self.roles = dict(zip((f"p{n}" for n in range(6)), ROLES, strict=True))
        self.flipped = {}
        self.traffic = traffic()
        self.refused = set()
        self.passes = []
        self.is_beginning = False

    async def pods(self):
        return [FleetPod(n, r, True, True, self.flipped.get(n)) for n, r in self.roles.items()]

    async def flip(self, flip):
        if flip.pod in self.refused:
            raise FlipRefused("it is gone")
        assert self.roles[flip.pod] is flip.from_role
        self.roles[flip.pod] = flip.to_role
        self.flipped[flip.pod] = self.now_s

    async def read(self):
        if self.is_beginning:
            raise CountingBegun("counting has only begun")
        if self.traffic is None:
            raise MetricsUnavailable("the server does not answer")
        return self.traffic

    async def report(self, done):
        self.passes.append(done)

    def controller(self, mode=ControlMode.ACTIVE, curves=CURVES):
        aim = aim_of(load_cluster(CLUSTER))
        return Controller(self, self, self, lambda: self.now_s, aim, mode, curves)

    async def run(self, passes, **options):
        controller, memory = self.controller(**options), Memory()
        for _ in range(passes):
            memory = await controller.run_once(memory)
            self.now_s += 5

    def count(self, role):
        return list(self.roles.values()).count(role)


@pytest.fixture
def world():
    return World()


async def test_pods_go_where_the_work_is(world):
    world.traffic = traffic(prompts=60)  # 50 ms each: three pods' worth of prefill
    await world.run(30)
    assert (world.count(Role.PREFILL), world.count(Role.DECODE)) == (4, 1)
    assert [done.decision.hold.code for done in world.passes[-3:]] == [ReasonCode.BALANCED] * 3


async def test_images_draw_pods_to_encode_up_to_its_maximum(world):
    world.traffic = traffic(prompts=5, images=300)
    await world.run(60)
    assert world.count(Role.ENCODE) == 4


async def test_a_loop_that_begins_to_count_says_nothing_until_it_has_counted(world):
    world.is_beginning = True
    await world.run(2)
    assert world.passes == []
    world.is_beginning = False
    await world.run(1)
    assert len(world.passes) == 1


async def test_shadow_decides_and_flips_nothing(world):
    world.traffic = traffic(prompts=60)
    await world.run(30, mode=ControlMode.SHADOW)
    assert tuple(world.roles.values()) == ROLES
    assert any(done.decision.flips for done in world.passes)
    assert not any(done.enacted for done in world.passes)


async def test_without_metrics_it_holds_and_says_so(world):
    world.traffic = traffic(prompts=60)
    await world.run(30)
    before = dict(world.roles)
    world.traffic = None
    await world.run(10)
    assert world.roles == before
    assert world.passes[-1].decision.hold.code is ReasonCode.METRICS_STALE
    assert world.passes[-1].problem == "metrics: the server does not answer"


async def test_where_half_the_pods_are_silent_it_holds(world):
    world.traffic = replace(traffic(prompts=60), workers=frozenset({"p0", "p1", "p2"}))
    await world.run(30)
    assert tuple(world.roles.values()) == ROLES


async def test_a_refused_flip_is_told_and_the_rest_is_for_the_next_pass(world):
    world.traffic = traffic(prompts=60)
    world.refused = set(world.roles)
    await world.run(30)
    assert tuple(world.roles.values()) == ROLES
    assert any("it is gone" in done.problem for done in world.passes)
    world.refused = set()
    await world.run(30)
    assert world.count(Role.PREFILL) == 4


async def test_losing_its_memory_at_any_pass_changes_nothing_in_the_end(world):
    world.traffic = traffic(prompts=60)
    for _ in range(15):
        await world.run(4)
    assert (world.count(Role.PREFILL), world.count(Role.DECODE)) == (4, 1)


async def test_a_flip_by_somebody_else_in_between_is_not_overwritten(world):
    class Racing(World):
        async def flip(self, flip):
            self.roles[flip.pod] = Role.DECODE
            if flip.from_role is not Role.DECODE:
                raise FlipRefused("it has another role")

    racing = Racing()
    racing.traffic = traffic(prompts=60)
    await racing.run(10)
    assert not any(done.enacted for done in racing.passes if done.problem)


def test_without_curves_the_workers_own_times_count():
    aim = aim_of(load_cluster(CLUSTER))
    seen = replace(traffic(prompts=20, images=10), tpot_ms=((20.0, 5.0), (40.0, 20.0)))
    pods = [FleetPod(f"p{n}", role) for n, role in enumerate(ROLES)]
    known = learnt(Memory().known, seen)
    view = view_of(0.0, pods, seen, aim, known, None)
    assert view.demand[Stage.ENCODE].offered_pods == pytest.approx(10 * 0.05)
    assert view.demand[Stage.PREFILL].offered_pods == pytest.approx(20 * 0.07)
    # p95 of TPOT is 38.7 ms of 40: two decode pods are nearly as busy as they may be.
    assert view.demand[Stage.DECODE].offered_pods == pytest.approx(2 * 38.67 / 40, rel=0.01)


def test_an_answer_costs_by_the_context_that_its_steps_see():
    """Half the requests have long prompts and one token; only the others are decoded."""
    seen = replace(
        traffic(prompts=20, prompt_tokens=2000.0),
        running={("p4", Stage.DECODE): 10.0},
        running_tokens=10 * 300.0,
    )
    curves = replace(CURVES, decode_token_ms=0.01)
    aim = aim_of(load_cluster(CLUSTER))
    pods = [FleetPod(f"p{n}", role) for n, role in enumerate(ROLES)]
    known = learnt(Memory().known, seen)
    assert known.context_tokens == 300
    with_context = view_of(0.0, pods, seen, aim, known, curves)
    without = view_of(0.0, pods, seen, aim, replace(known, context_tokens=None), curves)
    assert (
        with_context.demand[Stage.DECODE].offered_pods
        < without.demand[Stage.DECODE].offered_pods / 2
    )


def test_what_a_pod_holds_strands_if_it_flips():
    aim = aim_of(load_cluster(CLUSTER))
    seen = replace(
        traffic(prompts=20),
        waiting={("p2", Stage.PREFILL): 3.0},
        running={("p2", Stage.PREFILL): 1.0, ("p4", Stage.DECODE): 0.0},
    )
    pods = [FleetPod(f"p{n}", role) for n, role in enumerate(ROLES)]
    view = view_of(0.0, pods, seen, aim, learnt(Memory().known, seen), CURVES)
    stranded = {pod.name: pod.stranded_ms for pod in view.pods}
    assert stranded["p2"] == {Stage.PREFILL: pytest.approx(4 * 50.0)}
    assert stranded["p4"] == {}
    assert view.demand[Stage.PREFILL].queue_ms == pytest.approx(3 * 50.0 / 2)


def test_the_spec_reaches_the_policy():
    aim = aim_of(load_cluster(CLUSTER))
    assert (aim.slo.ttft_ms, aim.slo.tpot_ms, aim.slo.attainment) == (800, 40, 0.95)
    assert (aim.limits.cooldown_s, aim.limits.max_concurrent_flips) == (5, 2)
    assert aim.bounds[Role.ENCODE].max_pods == 4
    assert Flip("p", Role.ENCODE, Role.DECODE).to_role is Role.DECODE


def test_answers_are_priced_by_the_kind_of_the_requests_that_come_now():
    """Long chats still end while only pictures are asked about."""
    chats = replace(
        traffic(prompts=10),
        answered={"0": 9.0, "1+": 1.0},
        output_tokens={"0": 9000.0, "1+": 50.0},
    )
    known = learnt(Known(), replace(chats, accepted={"0": 5.0, "1+": 5.0}))
    assert known.shape.output_tokens == pytest.approx(525)
    known = learnt(known, replace(chats, accepted={"1+": 10.0}))
    assert known.shape.output_tokens == pytest.approx(50)
    nothing_ends = replace(chats, answered={}, output_tokens={}, accepted={"0": 10.0})
    assert learnt(known, nothing_ends).shape.output_tokens == pytest.approx(1000)


def test_prompts_of_no_known_answer_are_not_priced_yet():
    first = replace(traffic(prompts=10), answered={}, output_tokens={})
    assert learnt(Known(), first).shape is None


async def test_a_pass_and_its_flips_are_spans_with_the_reasons(world):
    exporter = KeptSpans()
    world.traffic = traffic(prompts=60)
    quiet = world.controller()
    traced = replace(quiet, tracing=exporter.tracing(), name="ns/demo")
    memory = Memory()
    for _ in range(30):
        memory = await traced.run_once(memory)
        world.now_s += 5
    spans = exporter.get_finished_spans()
    passes = {span.context.span_id: span for span in spans if span.name == "control pass"}
    flips = [span for span in spans if span.name == "flip"]
    assert len(passes) == 30
    assert len(flips) == sum(len(done.enacted) for done in world.passes) > 0
    for flip in flips:
        around = passes[flip.parent.span_id]
        assert around.attributes["epd.cluster"] == "ns/demo"
        assert "Demand prefill" in around.attributes["epd.reasons"]
        assert around.attributes["epd.hold"] == ""
    world.traffic = None
    await traced.run_once(memory)
    assert exporter.get_finished_spans()[-1].status.description.startswith("metrics:")
