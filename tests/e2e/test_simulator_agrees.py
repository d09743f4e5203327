"""The simulator tells of a cluster what a cluster of processes then does."""

import random
from pathlib import Path

import pytest
from twin_clusters import SLO, real, simulated, square_wave, write_curves

SEED = random.SystemRandom().randrange(2**32)
PHASE_S = 14.0
GOODPUT_TOLERANCE = 0.1


@pytest.mark.timeout(300)
async def test_a_cluster_under_prometheus_flips_as_its_twin_in_the_simulator(
    tmp_path: Path,
) -> None:
    """Same trace, same curves, same loop: the same flips in the same order, and like goodput."""
    print(f"seed {SEED}")
    trace = square_wave(PHASE_S, 2, SEED)
    curves = write_curves(tmp_path)
    expected = simulated(trace, curves)
    print(f"simulated: {expected}")
    seen = await real(trace, curves, tmp_path)
    print(f"real:      {seen}")
    assert seen.moves == expected.moves, f"seed {SEED}"
    assert len(seen.ttft_ms) == len(trace)
    assert seen.good / expected.good == pytest.approx(1, abs=GOODPUT_TOLERANCE), SLO
