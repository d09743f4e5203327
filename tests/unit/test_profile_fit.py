"""From measurements to a curves file."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from epd.api.curves import CurvesFile
from epd.policy.curves import Curve
from epd.vocabulary import Role
from epd_cli import profile
from epd_cli.__main__ import main
from epd_cli.profile_fit import Fit, Measured, fit
from epd_cli.profile_rounds import disagreement, typical
from epd_operator.control.curves_file import curves_of
from epd_operator.local_state import LocalPod, PodState
from epd_sim.costs import StageCosts

SIZES = (64, 256, 1024, 4096)


def measured(**parts) -> Measured:
    parts.setdefault("prefill", [(n, 4 + 0.02 * n + 1e-6 * n * n) for n in SIZES])
    return Measured(**parts)


def curve(found: Fit, *path: str) -> Curve:
    tree = found.sections
    for name in path:
        tree = tree[name]
    return Curve(tuple(map(tuple, tree)))


def test_a_prefill_that_a_formula_explains_is_written_by_the_formula():
    found = fit(measured(held_out=[(2048, 4 + 0.02 * 2048 + 1e-6 * 2048**2)]))
    assert found.held_out_error < 0.01
    assert curve(found, "prefill_ms").at(0) == pytest.approx(4, rel=0.01)
    assert max(abs(residual.error) for residual in found.residuals) < 0.01


def test_a_prefill_that_no_formula_explains_is_written_as_measured():
    odd = [(64, 10.0), (256, 50.0), (1024, 51.0), (4096, 52.0)]
    written = curve(fit(measured(prefill=odd)), "prefill_ms")
    assert [written.at(n) for n, _ in odd] == pytest.approx([ms for _, ms in odd])


def test_a_run_of_the_encoder_is_told_apart_from_its_images():
    runs = [(s, n, 1.5 + n * 0.01 * s) for s in (100, 1000) for n in (1, 4)]
    found = fit(measured(encode=runs))
    assert found.sections["encode"]["batch_ms"] == pytest.approx(1.5, rel=0.01)
    assert curve(found, "encode", "image_ms").at(1000) == pytest.approx(10, rel=0.01)


def test_reading_contexts_is_told_apart_from_the_batch():
    steps = [(b, b * c, 5 + 0.1 * b + 3e-5 * b * c) for b in (1, 8, 32) for c in (64, 1024)]
    found = fit(measured(decode=steps))
    assert found.sections["decode_step"]["ms_per_1000_tokens"] == pytest.approx(0.03, rel=0.01)
    assert curve(found, "decode_step", "batch_ms").at(32) == pytest.approx(8.2, rel=0.01)


GIB = 2**30


def moved(kv_ms, ec_ms, gib_per_s):
    sizes = [("KV", 2**k) for k in (22, 25, 28)] + [("EC", 2**k) for k in (20, 22)]
    fixed = {"KV": kv_ms, "EC": ec_ms}
    return [(kind, n, fixed[kind] + n / GIB / gib_per_s * 1e3) for kind, n in sizes]


def test_handoffs_share_a_link_and_each_kind_has_its_own_fixed_part(tmp_path):
    found = fit(measured(handoff=moved(kv_ms=5, ec_ms=3, gib_per_s=2)))
    assert found.sections["handoff"] == {
        "fixed_ms": pytest.approx(5, rel=1e-3),
        "ec_fixed_ms": pytest.approx(3, rel=1e-3),
        "gib_per_s": pytest.approx(2, rel=1e-3),
        "measured_bytes": [2**20, 2**28],
    }
    assert max(abs(residual.error) for residual in found.residuals) < 0.01
    file = tmp_path / "curves.yaml"
    file.write_text(yaml.safe_dump({"handoff": dict(found.sections["handoff"])}))
    read = CurvesFile.read(file)
    costs, believed = StageCosts.of(read), curves_of(read)
    tokens = 4096 * 147_456 / GIB / 2  # seconds that the bytes of as many tokens take
    assert costs.kv_handoff_s(4096) == pytest.approx(0.005 + tokens, rel=1e-3)
    assert costs.ec_handoff_s(0) == pytest.approx(0.003, rel=1e-3)
    assert costs.curves().ec_handoff(0) == believed.ec_handoff(0) == pytest.approx(3, rel=1e-3)
    assert believed.handoff(0) == pytest.approx(5, rel=1e-3)


def test_bytes_that_do_not_show_bound_the_links_speed_from_below():
    found = fit(measured(handoff=[("KV", 1000, 5.0), ("KV", 2**20, 5.1), ("KV", 2**21, 4.9)]))
    section = found.sections["handoff"]
    assert section["fixed_ms"] == pytest.approx(5)
    assert 2**21 / GIB / section["gib_per_s"] * 1e3 == pytest.approx(0.25, rel=1e-3)
    assert "ec_fixed_ms" not in section


def test_a_fixed_part_that_does_not_show_is_none_and_the_bytes_are_kept():
    found = fit(measured(handoff=[("KV", 2**24, 15.0), ("KV", 2**28, 250.0), ("KV", 2**29, 501.0)]))
    assert found.sections["handoff"]["fixed_ms"] == 0
    assert found.sections["handoff"]["gib_per_s"] == pytest.approx(1, rel=0.05)


def test_noise_that_would_make_a_part_negative_leaves_that_part_out():
    found = fit(measured(decode=[(1, 64.0, 6.0), (1, 1024.0, 5.0)]))
    assert found.sections["decode_step"] == {"batch_ms": [[1, 5.5]], "ms_per_1000_tokens": 0.0}


@pytest.mark.parametrize(
    ("worker", "taker", "addresses"),
    [
        ("a", None, ("h:1", "h:3")),
        ("c", None, ("h:3", "h:1")),
        ("a", "b", ("h:1", "h:2")),
        ("a", "10.0.0.8:9", ("h:1", "10.0.0.8:9")),
        ("10.0.0.7:9", None, ("10.0.0.7:9", "")),
    ],
)
def test_another_ready_pod_of_the_cluster_takes_handoffs(monkeypatch, worker, taker, addresses):
    pods = [
        LocalPod(name="a", role=Role.ENCODE, state=PodState.READY, address="h:1"),
        LocalPod(name="b", role=Role.PREFILL, state=PodState.LOADING, address="h:2"),
        LocalPod(name="c", role=Role.DECODE, state=PodState.READY, address="h:3"),
    ]
    cluster = SimpleNamespace(read=lambda: SimpleNamespace(pods=pods))
    monkeypatch.setattr(profile, "chosen_cluster", lambda _: cluster)
    assert profile._addresses(Namespace(worker=worker, taker=taker)) == addresses


def test_what_disturbs_whole_rounds_does_not_tell_lengths_apart():
    true, paces = (5.0, 8.0, 21.0), (1.0, 1.9, 1.0, 3.1, 1.2, 1.0, 2.4, 1.1)
    rounds = [[ms * pace for ms in true] for pace in paces]
    assert typical(rounds) == pytest.approx(true)
    assert disagreement(rounds) == pytest.approx(0, abs=1e-9)


def test_a_single_time_that_was_disturbed_is_forgotten():
    rounds = [[5.0, 8.0, 21.0] for _ in range(9)]
    rounds[3][1] = 300.0
    assert typical(rounds) == pytest.approx((5, 8, 21))


def test_rounds_that_differ_in_shape_say_so():
    odd, even = [5.0, 8.0, 21.0], [5.0, 10.0, 21.0]
    assert disagreement([even, odd] * 4) > 0.05


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200"])
def test_the_curves_of_the_examples_can_be_read_and_say_where_they_come_from(gpu):
    file = Path(__file__).parents[2] / f"examples/curves/qwen3-vl-8b-{gpu}.yaml"
    costs = StageCosts.of(CurvesFile.read(file))
    assert f"on {gpu}_sxm: kernel times" in costs.name
    assert costs.encode_run_ms([1024]) < costs.encode_run_ms([2040])


def test_the_shipped_curves_are_those_of_an_h200():
    file = Path(__file__).parents[2] / "examples/curves/qwen3-vl-8b-h200.yaml"
    example, shipped = StageCosts.of(CurvesFile.read(file)), StageCosts.of(CurvesFile.read(None))
    for tokens in (256, 1024, 4096):
        prefill = example.prefill_base_ms() + example.chunk_ms(0, tokens)
        assert prefill == pytest.approx(
            shipped.prefill_base_ms() + shipped.chunk_ms(0, tokens), rel=0.03
        )
    assert example.decode_step_ms(32, 131_072) == pytest.approx(
        shipped.decode_step_ms(32, 131_072), rel=0.03
    )
    assert example.encode_run_ms([1024] * 4) == pytest.approx(
        shipped.encode_run_ms([1024] * 4), rel=0.03
    )


def test_kernel_times_are_those_that_nvidia_published(tmp_path):
    """Needs the extra `aiconfigurator`; docs/simulator.md says how to get it."""
    pytest.importorskip("aiconfigurator_core")
    file = tmp_path / "curves.yaml"
    arguments = [
        "--from",
        "aiconfigurator",
        "--model",
        "Qwen/Qwen3-VL-8B-Instruct",
        "--gpu",
        "h200",
    ]
    assert main(["profile", *arguments, "-o", str(file)]) == 0
    costs = StageCosts.of(CurvesFile.read(file))
    assert costs.prefill_base_ms() + costs.chunk_ms(0, 1024) == pytest.approx(21.2, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "aiconfigurator", "--model", "m"], "takes --model and --gpu"),
        ([], "which worker?"),
    ],
)
def test_profile_says_what_is_missing(capsys, arguments, said):
    assert main(["profile", *arguments, "-o", "curves.yaml"]) == 2
    assert said in capsys.readouterr().err
