"""`kubectl epd plan` without a cluster: what it makes of traffic, spec and curves."""

import argparse
import json
from dataclasses import replace

import pytest
import yaml

from epd.api.load import validate_cluster
from epd.vocabulary import Role, Stage
from epd_cli import kubectl_epd, kubectl_plan, kubectl_plan_view
from epd_cli.failures import CommandError, UsageError
from epd_cli.kubectl import Kubectl
from epd_cli.kubectl_plan import Present, costs_of, document, observed_of, reachable
from epd_operator.control.signals import traffic_of
from epd_sim.observed import Observed

CHATS = {("0",): 4.0, ("1+",): 2.0}


def traffic(**samples):
    """Return traffic of six requests a second, two of them with three images of 1,000 tokens."""
    done = {"started": 6.0, "finished": 6.0}
    stages = {("w", stage): 6.0 for stage in (Stage.PREFILL, Stage.DECODE)} | {
        ("w", Stage.ENCODE): 6.0
    }
    found = {
        **dict.fromkeys(done, stages),
        "tokens": {("w", Stage.ENCODE): 6000.0, ("w", Stage.PREFILL): 6 * 1200.0},
        "images": {(): 6.0},
        "accepted": CHATS,
        "answered": CHATS,
        "output_tokens": {("0",): 4 * 300.0, ("1+",): 2 * 50.0},
        "ttft": {("1",): 3.0, ("2",): 6.0, ("+Inf",): 6.0},
        "tpot": {("0.05",): 6.0, ("+Inf",): 6.0},
        **samples,
    }
    return traffic_of(found, window_s=600.0, age_s=5.0, workers=frozenset({"w"}))


def owner(replicas=3, **spec):
    return {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": "demo", "namespace": "prod"},
        "spec": {
            "model": {"source": "none/simulated", "servedName": "simulated"},
            "engine": {"type": "Simulated"},
            "replicas": replicas,
            "slo": {"ttftMilliseconds": 2000, "tpotMilliseconds": 300},
            **spec,
        },
    }


def options(**chosen):
    given = {
        "cluster": "demo", "prometheus": "http://prometheus", "curves": None, "window_s": 600.0,
        "image_tokens": None, "pods": 9, "seconds": 15.0, "seed": 1,
    }  # fmt: skip
    return argparse.Namespace(**{**given, **chosen})


def planned(split, replicas=3, rate=5.0, **spec):
    cluster = validate_cluster(owner(replicas, **spec))
    seen = traffic()
    observed = replace(observed_of(seen), requests_per_s=rate)
    present = Present("prod/demo", cluster, split, seen, observed)
    slow = costs_of(cluster, None).slowed(10)  # few requests keep pods busy, and are quick to draw
    return document(present, slow, options())


def test_rates_and_means_are_those_of_the_traffic():
    assert observed_of(traffic()) == Observed(
        requests_per_s=6.0,
        image_share=pytest.approx(1 / 3),
        images=3.0,
        image_tokens=1000.0,
        text_tokens=200.0,
        output_tokens=300.0,
        image_output_tokens=50.0,
    )


def test_drawn_requests_have_the_means_they_were_drawn_from():
    observed = Observed(25.0, 0.4, 2.5, 700.0, 300.0, 500.0, 40.0)
    drawn = [request.shape for request in observed.draw(400.0, seed=3)]
    pictured = [shape for shape in drawn if shape.image_tokens]
    plain = [shape for shape in drawn if not shape.image_tokens]

    def mean(values):
        found = list(values)
        return sum(found) / len(found)

    assert len(drawn) / 400 == pytest.approx(25, rel=0.05)
    assert len(pictured) / len(drawn) == pytest.approx(0.4, rel=0.05)
    assert mean(len(s.image_tokens) for s in pictured) == pytest.approx(2.5, rel=0.05)
    assert {t for s in pictured for t in s.image_tokens} == {700}
    assert mean(s.text_tokens for s in drawn) == pytest.approx(300, rel=0.05)
    assert mean(s.output_tokens for s in plain) == pytest.approx(500, rel=0.05)
    assert mean(s.output_tokens for s in pictured) == pytest.approx(40, rel=0.05)
    assert observed.draw(20.0, seed=3) == observed.draw(20.0, seed=3)


@pytest.mark.parametrize("nothing", [{"accepted": {}}, {"finished": {}}, {"answered": {}}])
def test_without_traffic_one_line_says_so(nothing):
    with pytest.raises(CommandError, match=r"no traffic yet: .* in the last 600 s"):
        observed_of(traffic(**nothing))


def test_tokens_of_images_that_nobody_counts_are_asked_for():
    fused = traffic(
        tokens={("w", Stage.PREFILL): 6 * 1200.0},
        finished={("w", Stage.PREFILL): 6.0, ("w", Stage.DECODE): 6.0},
    )
    with pytest.raises(CommandError, match="give --image-tokens N"):
        observed_of(fused)
    assert observed_of(fused, 1000.0) == observed_of(traffic())


def test_a_real_engine_needs_curves(tmp_path):
    real = validate_cluster(owner(engine={"type": "VLLM"}))
    with pytest.raises(CommandError, match="epd profile, and give --curves FILE"):
        costs_of(real, None)
    file = tmp_path / "mine.yaml"
    file.write_text("source: mine\n")
    assert costs_of(real, str(file)).name == "mine"
    with pytest.raises(CommandError, match="No such file"):
        costs_of(real, str(tmp_path / "gone.yaml"))


def test_where_prometheus_is_must_be_said():
    with pytest.raises(CommandError, match="name a Prometheus"), reachable(Kubectl(), None):
        pass
    with (
        pytest.raises(UsageError, match="a URL, or NAMESPACE/SERVICE:PORT"),
        reachable(Kubectl(), "prometheus:9090"),
    ):
        pass


def test_a_fleet_that_is_too_small_is_told_how_many_pods_to_take():
    plan = planned({Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1}, rate=14.0)
    best = plan["plans"][0]
    assert plan["now"]["attainment"] < 0.9 <= best["attainment"]
    assert best["pods"] == sum(best["split"].values()) > 3
    assert all(each["pods"] >= best["pods"] for each in plan["plans"] if each["meets_slo"])
    _, _, wanted = plan["command"].partition("kubectl patch epd/demo -n prod --type=merge -p ")
    assert json.loads(wanted.strip("'")) == {
        "spec": {"method": best["method"], "replicas": best["pods"]}
    }
    text = "\n".join([*kubectl_plan_view.heading(plan), *kubectl_plan_view.advice(plan)])
    assert "14.00 requests/s, 33% with 3.0 images of 1000 tokens" in text
    assert f"Take {best['pods']} pods, method {best['method']}" in text
    assert kubectl_plan_view.rows(plan)[-1][:3] == (
        "as it is", "3", "1 decode, 1 encode, 1 prefill",
    )  # fmt: skip
    assert json.loads(json.dumps(plan)) == plan == yaml.safe_load(yaml.safe_dump(plan))


def test_a_fleet_that_is_as_planned_has_nothing_to_do():
    first = planned({})
    best = first["plans"][0]
    split = {Role(role): count for role, count in best["split"].items()}
    again = planned(split, replicas=best["pods"], method=best["method"])
    assert again["command"] == ""
    larger = planned(split, replicas=9, method=best["method"])
    assert larger["command"] == f"kubectl scale epd/demo -n prod --replicas={best['pods']}"
    assert again["now"]["attainment"] == best["attainment"]
    assert "nothing to do" in "\n".join(kubectl_plan_view.advice(again))
    assert first["now"]["attainment"] is None


@pytest.fixture
def fake(monkeypatch):
    """Play kubectl and Prometheus."""
    pods = [
        {
            "metadata": {
                "namespace": "prod", "name": f"demo-{role}", "creationTimestamp": "2026-01-01",
                "labels": {"epd.dev/role": role},
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        for role in ("encode", "prefill", "decode")
    ]  # fmt: skip
    monkeypatch.setattr(Kubectl, "get", lambda *_: owner())
    monkeypatch.setattr(Kubectl, "find", lambda *_: pods)
    monkeypatch.setattr(kubectl_plan, "_traffic", lambda *_: traffic())


def test_the_command_prints_a_table_and_a_document(fake, capsys):
    words = ["plan", "demo", "--prometheus", "http://there", "--seconds", "10"]
    assert kubectl_epd.main([*words]) == 0
    text = capsys.readouterr().out
    assert "METHOD" in text
    assert "as it is" in text
    assert "Take " in text
    assert kubectl_epd.main([*words, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["now"]["split"] == {"decode": 1, "encode": 1, "prefill": 1}
    assert kubectl_epd.main([*words, "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == found


def test_a_plan_that_no_fleet_meets_ends_in_one_line(fake, monkeypatch, capsys):
    strict = owner(slo={"ttftMilliseconds": 5, "tpotMilliseconds": 5})
    monkeypatch.setattr(Kubectl, "get", lambda *_: strict)
    words = ["plan", "demo", "--prometheus", "http://there", "--seconds", "5", "--pods", "4"]
    assert kubectl_epd.main(words) == 1
    said = capsys.readouterr()
    assert "more than 4" in said.out
    assert said.err == (
        "kubectl epd plan: no method meets the objective with 4 pods: allow more with --pods\n"
    )
