"""What the control loops tell Prometheus of their passes."""

from prometheus_client import CollectorRegistry, generate_latest

from epd.policy.control_view import Decision, Flip, Reason, ReasonCode
from epd.vocabulary import Role
from epd_operator.control.metrics import ControlMetrics, why_of
from epd_operator.control.ports import Pass

ONE, OTHER = ("ns", "one"), ("ns", "other")
E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE


def demand(role, demand_pods, pods):
    return Reason(ReasonCode.DEMAND, role, {"demand_pods": demand_pods, "pods": pods})


def hold(code):
    return Pass(Decision((), {E: 1, P: 1, D: 2}, Reason(code), (demand(E, 0.5, 1),)))


def flip(*more):
    flips = (Flip("a", D, E),)
    return Pass(Decision(flips, {E: 2, P: 1, D: 1}, None, (demand(E, 1.5, 1), *more)), flips)


class Kept:
    def __init__(self):
        self.passes = []

    async def report(self, done):
        self.passes.append(done)


def numbers(registry):
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def series(name, cluster=ONE, **labels):
    pairs = {"epd_dev_cluster": cluster[1], "namespace": cluster[0], **labels}
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(pairs.items()))
    return f"epd_control_{name}{{{inside}}}"


async def test_a_pass_is_noted_and_handed_on():
    registry, kept = CollectorRegistry(), Kept()
    reporter = ControlMetrics(registry).reporter(ONE, kept)
    done = flip(Reason(ReasonCode.BEST_SPLIT))
    await reporter.report(done)
    found = numbers(registry)
    assert kept.passes == [done]
    assert found[series("demand_pods", role="encode")] == 1.5
    assert found[series("desired_pods", role="encode")] == 2
    assert found[series("pods", role="encode")] == 1
    roles = {"from_role": "decode", "to_role": "encode"}
    assert found[series("flips_total", **roles, why="BestSplit")] == 1
    assert found[series("passes_total")] == 1
    assert found[series("last_decision_timestamp_seconds")] > 0


def test_holds_add_up_and_the_last_one_stands():
    registry = CollectorRegistry()
    metrics = ControlMetrics(registry)
    for code in (ReasonCode.BALANCED, ReasonCode.COOLDOWN, ReasonCode.COOLDOWN):
        metrics.note(ONE, hold(code))
    found = numbers(registry)
    assert found[series("holds_total", hold="Cooldown")] == 2
    assert found[series("holding", hold="Cooldown")] == 1
    assert found[series("holding", hold="Balanced")] == 0


def test_a_decision_without_metrics_is_no_decision():
    registry = CollectorRegistry()
    stale = Reason(ReasonCode.METRICS_STALE)
    ControlMetrics(registry).note(ONE, Pass(Decision((), {E: 1}, stale, (stale,))))
    found = numbers(registry)
    assert series("last_decision_timestamp_seconds") not in found
    assert found[series("passes_total")] == 1


def test_clusters_do_not_mix_and_one_that_is_gone_leaves_nothing():
    registry = CollectorRegistry()
    metrics = ControlMetrics(registry)
    metrics.note(ONE, hold(ReasonCode.BALANCED))
    metrics.note(OTHER, hold(ReasonCode.BALANCED))
    metrics.forget(ONE)
    found = numbers(registry)
    assert series("passes_total", OTHER) in found
    assert not [name for name in found if 'epd_dev_cluster="one"' in name]


def test_a_breach_is_a_better_reason_than_the_split():
    breach = Reason(ReasonCode.TTFT_BREACH_PREDICTED, "encode")
    assert why_of((Reason(ReasonCode.BEST_SPLIT), breach)) == "TTFTBreachPredicted"
    assert why_of(()) == "BestSplit"
