"""`epd top`: what its screen shows of a snapshot, at any size."""

import pytest

from epd_cli.top_frame import FULL_BAR, Mood, bar, decision_lines, frame

PODS = [("pod-0", "encode"), ("pod-1", "prefill"), ("pod-2", "decode"), ("pod-3", "decode")]
CONTROL = {
    "mode": "Active", "time": "2026-01-01T10:20:30+00:00", "desired": {"encode": 1, "decode": 3},
    "flips": [], "enacted": [], "hold": "Cooldown pod-1", "problem": "",
    "reasons": ["Demand encode: demand_pods=0.4", "Demand decode: demand_pods=2.6"],
    "recent": [
        {
            "time": "2026-01-01T10:20:20+00:00",
            "enacted": [{"pod": "pod-3", "from": "prefill", "to": "decode"}],
            "reasons": ["TPOTBreachSustained decode: tpot_ms=80"],
        }
    ],
}  # fmt: skip


def pod(name: str, role: str, work: int = 0, **changed):
    outstanding = {"encode": 0, "prefill": 0, "decode": work}
    return {
        "name": name, "role": role, "state": "ready", "healthy": True, "outstanding": outstanding,
        "kv_used_percent": 12.5, "leases": 0, **changed,
    }  # fmt: skip


def stage(name: str, **changed):
    return {
        "stage": name, "count": 12, "failed": 0, "overflowed": 0, "outstanding": 2, "p50_ms": 12.3,
        "p90_ms": 45.6, "queue_p90_ms": 1.0, "handoff_p90_ms": None, "per_token_p90_ms": None,
        "of_slo_percent": 40, **changed,
    }  # fmt: skip


def snapshot(**changed):
    slo = {
        "ttft_ms": 1000.0, "tpot_ms": 50.0, "attainment_percent": 90.0, "requests": 120,
        "attained_percent": 97.5, "ttft_reached_ms": 230.0, "tpot_reached_ms": 21.0,
    }  # fmt: skip
    return {
        "time": 1_767_262_830.0, "cluster": "demo", "models": ["tiny"], "method": "E-P-D",
        "roster_version": 7, "roster_current": True, "ready": True, "missing_stages": [],
        "in_flight": 3, "window_s": 60.0, "requests_per_s": 2.0, "output_tokens_per_s": 310.5,
        "failed": 0, "retried": 1, "slo": slo,
        "stages": [stage("encode"), stage("prefill"), stage("decode")],
        "pods": [pod(name, role, index) for index, (name, role) in enumerate(PODS)],
        "requests": [], "flips": [], "control": CONTROL, **changed,
    }  # fmt: skip


def text_of(lines):
    return "\n".join(line.text for line in lines)


@pytest.mark.parametrize("pods", [1, 4, 9, 40, 1000])
@pytest.mark.parametrize("size", [(80, 24), (80, 16), (120, 40), (40, 12)])
def test_no_screen_is_larger_than_the_terminal(pods, size):
    width, height = size
    names = [f"a-cluster-with-a-long-name-{index}" for index in range(pods)]
    fleet = [pod(name, "encode-prefill-decode", 3) for name in names]
    lines = frame(snapshot(pods=fleet), width, height)
    assert len(lines) <= height
    assert max(len(line.text) for line in lines) <= width
    assert all(line.text.isascii() and line.text.isprintable() for line in lines)


def test_a_small_fleet_fits_80_by_24_with_every_pod_stage_and_reason():
    text = text_of(frame(snapshot(), 80, 24))
    for name, _ in PODS:
        assert name in text
    assert "MET 97.5 %" in text
    assert "10:20:30 Active: Cooldown pod-1; wants encode 1, decode 3" in text
    assert "10:20:20 pod-3 prefill -> decode: TPOTBreachSustained decode" in text


def test_pods_stand_in_the_order_of_their_roles():
    shuffled = [pod("z", "decode"), pod("b", "encode"), pod("a", "prefill"), pod("y", "decode")]
    text = text_of(frame(snapshot(pods=shuffled, control=None), 80, 24))
    places = [text.index(f" {name} ") for name in ("b", "a", "y", "z")]
    assert places == sorted(places)


def test_a_fleet_that_does_not_fit_is_shown_by_role():
    fleet = [pod(f"pod-{index}", "decode", index % 3) for index in range(40)]
    fleet[0]["healthy"] = False
    lines = frame(snapshot(pods=fleet), 80, 24)
    (decode,) = [line for line in lines if line.text.startswith("decode ") and "39" in line.text]
    assert decode.text.split()[:3] == ["decode", "40", "39"]
    assert decode.mood is Mood.BAD


def test_without_a_limit_nothing_is_left_out():
    fleet = [pod(f"pod-{index}", "decode") for index in range(300)]
    assert "pod-299" in text_of(frame(snapshot(pods=fleet), 80, None))


def test_a_missed_objective_and_a_missing_stage_are_told_in_words():
    missed = {**snapshot()["slo"], "attained_percent": 61.0}
    text = text_of(frame(snapshot(slo=missed, missing_stages=["encode"]), 80, 24))
    assert "MISSED 61 %" in text
    assert "NOT READY: no pod for encode" in text


def test_a_pod_that_is_out_says_how_it_is_in_place_of_its_load():
    fleet = [pod("pod-0", "decode", healthy=False, state="silent", kv_used_percent=None)]
    assert "SILENT" in text_of(frame(snapshot(pods=fleet), 80, 24))


def test_without_traffic_no_number_is_made_up():
    none = dict.fromkeys(("attained_percent", "ttft_reached_ms", "tpot_reached_ms"))
    nothing = {
        "count": 0, "p50_ms": None, "p90_ms": None, "of_slo_percent": None, "outstanding": 0
    }  # fmt: skip
    seen = snapshot(
        slo={**snapshot()["slo"], **none, "requests": 0}, stages=[stage("encode", **nothing)]
    )
    text = text_of(frame(seen, 80, 24))
    assert "no traffic" in text
    assert "encode       0    0    0       -       -       -  -" in text


def test_a_bar_is_as_long_as_its_share_and_shows_the_least():
    assert bar(0) == f"[{'.' * 20}]"
    assert bar(0.001).count("#") == 1
    assert bar(0.5).count("#") == 10
    assert bar(7.0).count("#") == 20


def test_the_busiest_pod_has_a_full_bar():
    fleet = [pod("a", "decode", 4 * FULL_BAR), pod("b", "decode", FULL_BAR)]
    lines = {line.text.split()[1]: line.text for line in frame(snapshot(pods=fleet), 80, 24)[10:12]}
    assert lines["a"].count("#") == 20
    assert lines["b"].count("#") == 5


def test_a_flip_without_a_known_reason_is_told_once():
    flips = [
        {"time": 1_767_262_820.0, "pod": "pod-3", "from": "prefill", "to": "decode"},
        {"time": 1_767_262_810.0, "pod": "pod-1", "from": "decode", "to": "prefill"},
    ]
    told = [line.text for line in decision_lines(snapshot(flips=flips))]
    assert sum("pod-3" in line for line in told) == 1
    assert told[-1] == "10:20:10 pod-1 decode -> prefill"


def test_where_nothing_is_decided_that_is_said():
    (line,) = decision_lines(snapshot(control=None))
    assert line.text.startswith("none:")
