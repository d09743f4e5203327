"""Cost curves: their arithmetic, and how a wrong file is refused."""

import io
import json
from pathlib import Path

import pytest
from engine_calls import picture
from PIL import Image

from epd.api.curves import DEFAULT_CURVES_FILE
from epd_worker.engine.settings import SettingsError
from epd_worker.engine.simulated_curves import at, load_curves
from epd_worker.engine.simulated_images import image_tokens

# --- arithmetic --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (8, 4), (10, 10), (15, 25), (20, 40), (22, 42), (30, 50)]
)
def test_a_curve_is_straight_between_and_beyond_its_points(x: float, y: float) -> None:
    assert at([(10, 10), (20, 40), (21, 41)], x) == pytest.approx(y)


def test_a_curve_of_one_point_is_flat() -> None:
    assert at([(10, 3)], 1000) == 3


def test_the_shipped_curves_give_the_measured_figures() -> None:
    curves = load_curves(None)
    base_ms = at(curves.prefill_ms, 0)
    assert base_ms + curves.chunk_ms(0, 1024) == pytest.approx(21.2)
    assert curves.encode_s([1024]) * 1e3 == pytest.approx(13.2)
    assert curves.step_s(0, 32, 32 * 512) * 1e3 == pytest.approx(6.0, abs=0.3)
    assert curves.step_s(0, 128, 128 * 4096) * 1e3 == pytest.approx(23.1, abs=0.5)


def test_the_chunks_of_a_prompt_cost_what_the_prompt_costs() -> None:
    curves = load_curves(None)
    parts = sum(curves.chunk_ms(done, 1000) for done in range(0, 8000, 1000))
    assert parts == pytest.approx(curves.chunk_ms(0, 8000))


def test_a_mixed_step_costs_less_than_its_two_halves() -> None:
    curves = load_curves(None)
    prefill_ms = at(curves.prefill_ms, 0) + curves.chunk_ms(0, 512)
    apart = curves.step_s(prefill_ms, 0, 0) + curves.step_s(0, 32, 16384)
    assert curves.step_s(prefill_ms, 32, 16384) < apart


def test_the_time_scale_applies_to_every_duration() -> None:
    plain, fast = load_curves(None), load_curves(None, ["time_scale=0.01"])
    assert fast.encode_s([500]) == pytest.approx(plain.encode_s([500]) / 100)
    assert fast.step_s(7, 3, 900) == pytest.approx(plain.step_s(7, 3, 900) / 100)
    assert fast.kv_handoff_s(100) == pytest.approx(plain.kv_handoff_s(100) / 100)
    assert fast.ec_handoff_s(10**6) == pytest.approx(plain.ec_handoff_s(10**6) / 100)


def test_an_embedding_may_have_a_fixed_part_of_its_own():
    one = load_curves(None, ["handoff.fixed_ms=3", "handoff.gib_per_s=1"])
    two = load_curves(None, ["handoff.fixed_ms=3", "handoff.gib_per_s=1", "handoff.ec_fixed_ms=9"])
    assert one.ec_handoff_s(2**30) == pytest.approx(1.003)
    assert two.ec_handoff_s(2**30) == pytest.approx(1.009)
    assert two.kv_handoff_s(1000) == one.kv_handoff_s(1000)


# --- files -------------------------------------------------------------------------------------


def test_a_file_says_only_what_differs_from_the_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "curves.yaml"
    path.write_text("capacity: {max_running: 3}\n")
    curves = load_curves(path)
    assert curves.capacity.max_running == 3
    assert curves.capacity.kv_tokens == load_curves(None).capacity.kv_tokens


def test_a_file_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"time_scale": 0.5}))
    assert load_curves(path).time_scale == 0.5


def test_arguments_go_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "curves.yaml"
    path.write_text("failures: {encode_every: 3}\n")
    assert load_curves(path, ["failures.encode_every=5"]).failures.encode_every == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("time_scale: -1", "time_scale: Input should be greater than or equal to 0"),
        ("speed: 3", "speed: Extra inputs are not permitted"),
        ("capacity: {max_running: some}", "capacity.max_running: Input should be a valid integer"),
        ("prefill_ms: [[5, 1], [5, 2]]", "prefill_ms: the first numbers of the pairs must rise"),
        ("prefill_ms: []", "prefill_ms: List should have at least 1 item"),
        ("capacity: {kv_tokens: 5}", "capacity.context_tokens must not be above"),
        ("- a list", "a mapping was expected"),
        ("a: 1\nb: [", "line 3 is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "curves.yaml"
    path.write_text(text + "\n")
    with pytest.raises(SettingsError) as refused:
        load_curves(path)
    assert complaint in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"cost curves /nowhere: No such file"):
        load_curves(Path("/nowhere"))


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--fast", "takes KEY=VALUE pairs"),
        ("time_scale.x=1", "time_scale is no section"),
        ("time_scale=[", "the value is not YAML"),
        ("time_scale=slow", "time_scale: Input should be a valid number"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(argument: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_curves(None, [argument])
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_shipped_file_lies_beside_the_engine() -> None:
    assert DEFAULT_CURVES_FILE.is_file()


# --- images ------------------------------------------------------------------------------------


def test_an_image_is_worth_its_size_in_patches() -> None:
    assert image_tokens(picture("red", 448, 448)) == 196
    assert image_tokens(picture("red", 1920, 1080)) == 2040
    assert image_tokens(picture("red", 5, 5)) == 1


def test_a_jpeg_is_worth_as_much_as_a_png() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 512)).save(buffer, "JPEG")
    assert image_tokens(buffer.getvalue()) == 32 * 16


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff\xc0"])
def test_an_image_that_cannot_be_read_counts_by_its_bytes(content: bytes) -> None:
    assert image_tokens(content) == 1
    assert image_tokens(content + bytes(4096)) >= 1
