"""Does the simulator tell what HydraInfer measured? If not, nothing else it says counts."""

import pytest

from epd_sim.calibration import PUBLISHED, SEEDS, Ratio, ablation, compared


@pytest.mark.parametrize("ratio", PUBLISHED, ids=lambda ratio: f"{ratio.method} {ratio.count}")
def test_mean_ttft_of_every_published_split_is_within_15_percent(ratio: Ratio) -> None:
    found = compared(ratio)
    assert abs(found.ttft_error) <= 0.15, f"{found} (seeds {SEEDS})"


def test_more_decode_nodes_shorten_gaps_between_tokens() -> None:
    gaps_s = [compared(ratio, SEEDS[:2]).gap_s for ratio in PUBLISHED if ratio.method == "EP:D"]
    assert gaps_s == sorted(gaps_s)


@pytest.mark.parametrize("seed", [0, 1])
def test_hybrid_methods_and_stage_level_batching_each_add_goodput(seed: int) -> None:
    goodput = ablation(seed)
    assert goodput["full"] > goodput["no hybrid"] > goodput["no stages"], f"seed {seed}: {goodput}"
