"""Draw every dashboard from a real Prometheus that watches a simulated cluster under traffic.

`make dashboards-preview`: a minute and a half; writes docs/images/NAME.png. Where no Kubernetes
can be had for the operator, its panels stay empty.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kube.binaries import UnavailableError
from kube.control_plane import ControlPlane
from monitoring.boards import BOARDS
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import Watched, operator, until, watched_cluster
from monitoring.pictures import draw

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
PICTURES: Final = Mix(clients=24, pictures=6, tokens=20)
WORDS: Final = Mix(clients=96, pictures=0, tokens=300)
PHASE_S: Final = 20.0


@contextmanager
def operated(watched: Watched, folder: Path) -> Iterator[None]:
    """Have an operator watched, too, where there is a Kubernetes for it."""
    try:
        plane = ControlPlane()
    except UnavailableError as error:
        print(f"without an operator: {error}")
        yield
        return
    with plane, operator(plane, folder) as target:
        watched.targets(target)
        yield


def serve(watched: Watched, phase_s: float = PHASE_S) -> None:
    """Send pictures, then words, then pictures, and some mischief."""
    url, model = watched.cluster.gateway_url, watched.cluster.model
    with Traffic(url, model, PICTURES) as traffic:
        until(lambda: traffic.answered)
        for mix in (PICTURES, WORDS, PICTURES):
            traffic.mix = mix
            time.sleep(phase_s / 2)
            traffic.be_rude()
            time.sleep(phase_s / 2)


def main() -> int:
    """Draw all; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="epd-preview-") as name:
        folder = Path(name)
        print("a simulated cluster, an operator and Prometheus start")
        with watched_cluster(folder) as watched, operated(watched, folder):
            since_s = time.time()
            print(f"three kinds of traffic, {PHASE_S:.0f} s each")
            serve(watched)
            for board in BOARDS:
                file = IMAGES / f"{board.uid}.png"
                draw(board, watched.prometheus, since_s, file)
                print(f"docs/images/{file.name}: {file.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
