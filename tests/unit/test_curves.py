"""Cost curves against published kernel times, and the arithmetic around them."""

import json
import statistics
from pathlib import Path

import pytest

from epd.policy.control_view import Slo
from epd.policy.curves import CostCurves, Curve, RequestShape, fit_quadratic, least_squares
from epd.vocabulary import Stage

TIMES = json.loads(Path(__file__).parents[1].joinpath("support/kernel_times.json").read_text())
GPUS = ("h200_sxm", "h100_sxm")
TRAINED = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def curves(gpu="h200_sxm"):
    """The curves that a profile of powers of two gives."""
    times = TIMES[gpu]
    prefill = tuple((n, ms) for n, ms in times["prefill_ms"] if n in TRAINED)
    rows = [[1 / ms, batch / ms, batch * context / ms] for batch, context, ms in times["decode_ms"]]
    fixed, each, token = least_squares(rows, [1.0] * len(rows))
    return CostCurves(
        source=f"{TIMES['source']}; {gpu}",
        image_ms=Curve(((196, 1.5), (1024, 11.8), (2040, 34.3))),
        prefill_ms=Curve(((0, prefill[0][1] - 2), *prefill)),
        decode_ms=Curve(((1, fixed + each), (128, fixed + 128 * each))),
        encode_run_ms=1.4,
        decode_token_ms=token,
        handoff_ms=0.3,
        handoff_bytes_per_ms=2e7,
        kv_bytes_per_token=147456,
        ec_bytes_per_token=32768,
        kv_tokens=400_000,
    )


def errors(predicted_and_true):
    return sorted(abs(predicted / true - 1) for predicted, true in predicted_and_true)


# --- predictions of what was not measured ---------------------------------------------------------


@pytest.mark.parametrize("gpu", GPUS)
def test_ttft_of_held_out_prompt_lengths_is_predicted_within_five_percent(gpu):
    held_out = [(n, ms) for n, ms in TIMES[gpu]["prefill_ms"] if n not in TRAINED]
    wrong = errors((curves(gpu).ttft(RequestShape(prompt_tokens=n)), ms) for n, ms in held_out)
    assert len(wrong) == 18
    assert statistics.median(wrong) < 0.05
    assert wrong[-1] < 0.15


@pytest.mark.parametrize("gpu", GPUS)
def test_a_quadratic_of_seven_lengths_predicts_the_others_nearly_as_well(gpu):
    few = [(n, ms) for n, ms in TIMES[gpu]["prefill_ms"] if n in TRAINED[2:]]
    held_out = [(n, ms) for n, ms in TIMES[gpu]["prefill_ms"] if n > 256 and n not in TRAINED]
    fitted = fit_quadratic(few)
    assert statistics.median(errors((fitted.at(n), ms) for n, ms in held_out)) < 0.05


@pytest.mark.parametrize("gpu", GPUS)
def test_decode_steps_follow_batch_and_context(gpu):
    step = curves(gpu).decode_step
    wrong = errors(
        (step(batch, batch * context), ms) for batch, context, ms in TIMES[gpu]["decode_ms"]
    )
    assert statistics.median(wrong) < 0.05
    assert wrong[-1] < 0.1


@pytest.mark.parametrize("gpu", GPUS)
def test_prefill_behind_a_cached_prefix_is_predicted_from_prompts_without_one(gpu):
    wrong = errors(
        (curves(gpu).prefill(new, cached), ms) for new, cached, ms in TIMES[gpu]["prefix_ms"]
    )
    assert statistics.median(wrong) < 0.05


@pytest.mark.parametrize("gpu", GPUS)
def test_mixed_steps_cost_prefill_and_decode_and_read_the_weights_once(gpu):
    wrong = errors(
        (curves(gpu).mixed_step(new, batch, batch * context), ms)
        for new, batch, context, ms in TIMES[gpu]["mixed_ms"]
    )
    assert statistics.median(wrong) < 0.08


# --- curves ---------------------------------------------------------------------------------------


def test_a_curve_is_straight_between_points_and_beyond_them():
    curve = Curve(((10, 1.0), (20, 2.0), (40, 6.0)))
    assert [curve.at(x) for x in (10, 15, 30, 50)] == [1.0, 1.5, 4.0, 8.0]
    assert curve.at(-100) == 0.0
    assert Curve(((5, 3.0),)).at(99) == 3.0


def test_a_curve_knows_where_it_was_measured():
    curve = Curve(((10, 1.0), (20, 2.0)))
    assert [curve.covers(x) for x in (9, 10, 20, 21)] == [False, True, True, False]


def test_a_fit_finds_the_quadratic_that_the_points_lie_on():
    fitted = fit_quadratic([(n, 3.0 + 0.02 * n + 1e-6 * n * n) for n in (100, 500, 2000, 8000)])
    assert fitted.at(4000) == pytest.approx(3 + 80 + 16)
    assert fitted.curvature() == pytest.approx(2e-6)


def test_a_fit_has_no_negative_coefficient():
    bent_down = [(100, 10.0), (1000, 60.0), (2000, 80.0), (4000, 100.0)]
    fitted = fit_quadratic(bent_down)
    assert fitted.quadratic_ms == 0
    assert fitted.at(0) >= 0


@pytest.mark.parametrize("points", [[(100, 7.0)], [(100, 7.0), (300, 9.0)]])
def test_few_points_make_a_fit_of_fewer_coefficients(points):
    fitted = fit_quadratic(points)
    assert [fitted.at(x) for x, _ in points] == pytest.approx([y for _, y in points])


# --- published constants --------------------------------------------------------------------------


def test_hydrainfers_prefill_points_give_their_line():
    # LLaVA-1.5-7B on an H800, prompts of 1,024 tokens: 1.4 ms + 23.8 us a token.
    points = zip(range(1, 9), (26, 50, 75, 99, 123, 148, 169, 199), strict=True)
    fitted = fit_quadratic([(batch * 1024.0, ms) for batch, ms in points])
    assert fitted.at(2339) == pytest.approx(1.4 + 2339 * 0.0238, rel=0.05)


def test_handoff_times_follow_from_bytes():
    # Qwen2-VL-7B: 57,344 bytes a token of KV; a prompt of 2,339 tokens is 134 MB.
    qwen = CostCurves(
        "x", Curve(((1, 1.0),)), Curve(((1, 1.0),)), Curve(((1, 1.0),)),
        handoff_ms=0.3, handoff_bytes_per_ms=2e7, kv_bytes_per_token=57344,
    )  # fmt: skip
    assert qwen.handoff(2339 * qwen.kv_bytes_per_token) == pytest.approx(0.3 + 134.1 / 20, rel=0.01)


# --- what pods are kept busy by -------------------------------------------------------------------


def test_a_request_with_images_waits_for_encode_handoff_and_prefill():
    shape = RequestShape(images=2, image_tokens=1024, prompt_tokens=2300)
    model = curves()
    handoff_ms = 0.3 + 2 * 1024 * 32768 / 2e7
    alone_ms = (1.4 + 2 * 11.8) + handoff_ms + model.prefill(2300)
    assert model.ttft(shape) == pytest.approx(alone_ms)
    assert model.ttft(shape, 100, 50) == pytest.approx(alone_ms + 150)


def test_decode_is_batched_as_far_as_the_tpot_and_the_cache_allow():
    model, shape = curves(), RequestShape(prompt_tokens=1000, output_tokens=200)
    batch = model.decode_batch(shape, 12.0)
    assert model.decode_step(batch, batch * 1100) <= 12.0
    assert model.decode_step(batch + 1, (batch + 1) * 1100) > 12.0
    assert model.decode_batch(shape, 1e9) == 400_000 // 1100
    assert model.decode_batch(shape, 0.001) == 1


def test_decode_work_is_the_share_of_full_steps():
    model, shape = curves(), RequestShape(prompt_tokens=1000, output_tokens=201)
    batch = model.decode_batch(shape, 12.0)
    step_ms = model.decode_step(batch, batch * 1100.5)
    assert model.pod_ms(Stage.DECODE, shape, Slo(tpot_ms=12.0)) == pytest.approx(
        200 * step_ms / batch, rel=0.01
    )


def test_an_answer_of_one_token_needs_no_decode():
    shape = RequestShape(prompt_tokens=1000, output_tokens=1)
    assert curves().pod_ms(Stage.DECODE, shape, Slo()) == 0


def test_short_prompts_share_the_fixed_cost_of_a_step():
    model = curves()
    alone_ms = model.prefill(400)
    once_ms = model.prefill_ms.at(0)
    short, long = RequestShape(prompt_tokens=400), RequestShape(prompt_tokens=20_000)
    crowded_ms = model.prefill_share(short, step_ms=1000)
    assert crowded_ms == pytest.approx(alone_ms - once_ms * (1 - 400 / 8192))
    assert model.prefill_share(short, step_ms=alone_ms) == pytest.approx(alone_ms)
    assert model.prefill_share(long, step_ms=1e6) == pytest.approx(model.prefill(20_000))
    assert crowded_ms < model.prefill_share(short, step_ms=3 * alone_ms) < alone_ms
    assert model.prefill_share(RequestShape(), step_ms=1000) >= 0


def test_decode_is_priced_by_the_context_that_its_steps_see():
    mean = RequestShape(prompt_tokens=2000, output_tokens=200)
    known = RequestShape(prompt_tokens=2000, output_tokens=200, seen_tokens=700)
    assert mean.context_tokens == 2100
    assert known.context_tokens == 700
    price, cheaper = (curves().pod_ms(Stage.DECODE, shape, Slo()) for shape in (mean, known))
    assert cheaper < price
