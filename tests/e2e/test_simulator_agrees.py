"""The simulator tells of a cluster what a cluster of processes then does."""

import random
from pathlib import Path

import pytest
from twin_clusters import Pace, Seen, real, simulated

SEED = random.SystemRandom().randrange(2**32)
PHASE_S = 14.0
PHASES = 2
GOODPUT_TOLERANCE = 0.1
# A machine that sends later than this has no time for seven processes: it is given more of it.
LATE_MS = 20.0
STRETCHES = (1, 2, 4)


@pytest.mark.alone
@pytest.mark.timeout(900)
async def test_a_cluster_under_prometheus_flips_as_its_twin_in_the_simulator(
    tmp_path: Path,
) -> None:
    """Same trace, same curves, same loop: the same flips in the same order, and like goodput."""
    print(f"seed {SEED}")
    for stretch in STRETCHES:
        expected, seen = await twins(Pace(stretch), new_folder(tmp_path, stretch))
        print(f"stretch {stretch}\nsimulated: {expected}\nreal:      {seen}")
        if seen.late_p90_ms < LATE_MS:
            break
    assert seen.moves == expected.moves, f"seed {SEED}"
    assert seen.good / expected.good == pytest.approx(1, abs=GOODPUT_TOLERANCE), f"seed {SEED}"


def new_folder(parent: Path, stretch: int) -> Path:
    """Return an empty folder of its own for a try."""
    folder = parent / f"stretch-{stretch}"
    folder.mkdir()
    return folder


async def twins(pace: Pace, folder: Path) -> tuple[Seen, Seen]:
    """Return what the simulator did of a trace, and what the processes did."""
    trace = pace.square_wave(PHASE_S, PHASES, SEED)
    curves = pace.write_curves(folder)
    expected = simulated(trace, curves, pace)
    seen = await real(trace, curves, folder, pace)
    assert len(seen.ttft_ms) == len(trace)
    return expected, seen
