"""From measurements to a curves file."""

import pytest

from epd.policy.curves import Curve
from epd_cli.profile_fit import Fit, Measured, fit

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


def test_noise_that_would_make_a_part_negative_leaves_that_part_out():
    found = fit(measured(decode=[(1, 64.0, 6.0), (1, 1024.0, 5.0)]))
    assert found.sections["decode_step"] == {"batch_ms": [[1, 5.5]], "ms_per_1000_tokens": 0.0}
