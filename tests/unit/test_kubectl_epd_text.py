"""`kubectl epd` without a cluster: what it makes of objects, and of a command line."""

from datetime import UTC, datetime

import pytest

from epd.vocabulary import DRAINING, Role
from epd_cli import kubectl_epd, kubectl_top
from epd_cli.failures import CommandError
from epd_cli.kubectl_complete import suggestions
from epd_cli.kubectl_view import (
    age,
    cluster_row,
    cluster_view,
    explanation,
    pod_row,
    pod_view,
)

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
CREATED = "2026-01-02T11:00:00Z"


def condition(kind, status, reason="Because", message="of this"):
    return {"type": kind, "status": status, "reason": reason, "message": message}


def a_cluster(**status):
    return {
        "metadata": {
            "namespace": "prod", "name": "demo", "generation": 3, "creationTimestamp": CREATED,
        },
        "spec": {"model": {"servedName": "qwen"}, "replicas": 4},
        "status": status,
    }  # fmt: skip


def a_pod(**metadata):
    labels = {"epd.dev/cluster": "demo", "epd.dev/role": "decode"}
    return {
        "metadata": {
            "namespace": "prod", "name": "demo-1", "creationTimestamp": CREATED, "labels": labels,
            **metadata,
        },
        "spec": {"nodeName": "n1"},
        "status": {
            "phase": "Running",
            "conditions": [condition("Ready", "True")],
            "containerStatuses": [{"restartCount": 2}, {"restartCount": 1}],
        },
    }  # fmt: skip


def test_a_cluster_is_one_line():
    cluster = a_cluster(
        replicas=4,
        conditions=[condition("Ready", "True", "AllReady"), condition("SLOMet", "False")],
        roles=[{"name": "Encode", "ready": 1, "desired": 1}, {"name": "Decode", "ready": 2,
                                                              "desired": 3}],
    )  # fmt: skip
    assert cluster_row(cluster_view(cluster), NOW) == [
        "demo", "True", "4/4", "Encode 1/1, Decode 2/3", "False", "-", "AllReady", "60m",
    ]  # fmt: skip


def test_a_cluster_that_no_operator_has_seen_says_so():
    row = cluster_row(cluster_view(a_cluster()), NOW)
    assert row[1:7] == ["Unknown", "0/4", "-", "-", "-", "NotSeenYet"]


def test_a_pod_is_one_line():
    assert pod_row(pod_view(a_pod()), NOW) == [
        "demo-1", "demo", "decode", "yes", "Running", "3", "n1", "60m",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "state"),
    [
        ({"annotations": {DRAINING: "true"}}, "Draining"),
        ({"annotations": {DRAINING: "false"}}, "Running"),
        ({"annotations": {DRAINING: "true"}, "deletionTimestamp": CREATED}, "Terminating"),
    ],
)
def test_a_pod_that_leaves_says_so(metadata, state):
    assert pod_view(a_pod(**metadata))["state"] == state


def test_an_explanation_has_the_decision_its_reasons_and_what_happened():
    cluster = a_cluster(
        observedGeneration=2,
        lastDecision={"time": "2026-01-02T11:59:30Z", "reason": "Deadband", "message": "small."},
        conditions=[condition("Balanced", "True")],
    )
    events = [{"lastTimestamp": "2026-01-02T11:58:00Z", "reason": "RoleChanged",
               "message": "demo-1: encode becomes decode"}]  # fmt: skip
    text = "\n".join(explanation(cluster_view(cluster), events, NOW))
    assert "has not seen the latest spec" in text
    assert "Last decision, 30s ago: Deadband\n  small." in text
    assert "Balanced is True: Because: of this" in text
    assert "2m ago, RoleChanged: demo-1: encode becomes decode" in text


def test_an_explanation_without_a_decision_says_why_there_is_none():
    text = "\n".join(explanation(cluster_view(a_cluster(observedGeneration=3)), [], NOW))
    assert "No decision yet" in text


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-01-02T12:00:01Z", "0s"),
        ("2026-01-02T11:58:01Z", "119s"),
        ("2026-01-02T11:58:00Z", "2m"),
        ("2026-01-01T12:00:01Z", "23h"),
        ("2025-12-31T12:00:00Z", "2d"),
    ],
)
def test_ages_are_short(moment, said):
    assert age(moment, NOW) == said


class NamesOnly:
    """A kubectl that knows some names, or that fails."""

    def __init__(self, fails=False):
        self._fails = fails

    def find(self, kind, selector=""):
        if self._fails:
            raise CommandError("no cluster")
        names = ["demo-1", "demo-2"] if kind == "pods" else ["demo", "other"]
        return [{"metadata": {"name": name}} for name in names]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], ["status", "top", "roles", "flip", "explain", "plan", "logs"]),
        (["f"], ["flip"]),
        (["flip", ""], ["demo-1", "demo-2"]),
        (["flip", "-n", "prod", ""], ["demo-1", "demo-2"]),
        (["flip", "demo-1", "encode"], [role for role in Role if role.startswith("encode")]),
        (["flip", "demo-1", "encode", ""], []),
        (["explain", "d"], ["demo"]),
        (["status", "--al"], ["--all-namespaces"]),
        (["status", "-o", ""], ["table", "json", "yaml"]),
        (["logs", "demo", "--role", "pre"], ["prefill", "prefill-decode"]),
    ],
)
def test_tab_suggests_what_may_come_next(words, expected):
    assert suggestions(words, NamesOnly()) == expected


def test_tab_is_silent_where_the_cluster_cannot_be_asked():
    assert suggestions(["explain", ""], NamesOnly(fails=True)) == []


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["flip", "demo-1", "cook"], "unknown role 'cook'"),
        (["flip", "demo-1", "decode", "-A"], "-A is for status and roles"),
        (["logs", "demo", "--role", "cook"], "unknown role"),
        (["logs", "demo", "--component", "gateway", "--role", "decode"], "--role is for workers"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_status_2(argv, complaint, capsys):
    assert kubectl_epd.main(argv) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_without_kubectl_it_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert kubectl_epd.main(["status"]) == 1
    assert capsys.readouterr().err == "kubectl epd status: kubectl is not on PATH\n"


def test_the_screen_of_top_has_the_operators_decision_and_its_flips():
    def event(second, message, reason="Flipped", uid="u"):
        at = f"2026-01-01T00:00:{second:02}Z"
        return {
            "reason": reason, "message": message, "lastTimestamp": at,
            "involvedObject": {"uid": uid}, "metadata": {"creationTimestamp": at},
        }  # fmt: skip

    owner = {
        "metadata": {"uid": "u"},
        "spec": {"control": {"mode": "Active"}},
        "status": {
            "roles": [{"name": "Decode", "desired": 2, "ready": 1}],
            "lastDecision": {
                "time": "2026-01-01T00:00:09Z", "reason": "Cooldown", "message": "Demand a; Slo b",
            },
        },
    }  # fmt: skip
    events = [
        event(5, "w-0: prefill becomes decode: Demand decode: demand_pods=2; TTFT"),
        event(7, "w-1: encode becomes decode: why"),
        event(8, "w-2: encode becomes decode: why", uid="another"),
        event(8, "something else", reason="Scaled"),
    ]
    control = kubectl_top.control_of(owner, events)
    assert control is not None
    assert (control["hold"], control["desired"]) == ("Cooldown", {"Decode": 2})
    assert control["reasons"] == ["Demand a", "Slo b"]
    assert [made["enacted"][0]["pod"] for made in control["recent"]] == ["w-1", "w-0"]
    assert control["recent"][1]["reasons"] == ["Demand decode: demand_pods=2", "TTFT"]


def test_top_has_no_decision_before_the_first():
    assert kubectl_top.control_of({"metadata": {"uid": "u"}, "spec": {}}, []) is None
