"""Draw every dashboard from a real Prometheus that watches a simulated cluster under traffic.

`make dashboards-preview`: a minute; writes docs/images/NAME.png.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from monitoring.boards import BOARDS
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import MODEL, Watched, until, watched_cluster
from monitoring.pictures import draw

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
PICTURES: Final = Mix(clients=10, pictures=4, tokens=10)
WORDS: Final = Mix(clients=24, pictures=0, tokens=60)
PHASE_S: Final = 12.0


def serve(watched: Watched) -> None:
    """Send pictures, then words, then pictures, and some mischief."""
    with Traffic(watched.url, MODEL, PICTURES) as traffic:
        until(lambda: traffic.answered)
        for mix in (PICTURES, WORDS, PICTURES):
            traffic.mix = mix
            time.sleep(PHASE_S)
            traffic.be_rude()


def main() -> int:
    """Draw all; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="epd-preview-") as name:
        print("a simulated cluster and Prometheus start")
        with watched_cluster(Path(name)) as watched:
            since_s = time.time()
            print(f"pictures, words, pictures: {PHASE_S:.0f} s each")
            serve(watched)
            for board in BOARDS:
                file = IMAGES / f"{board.uid}.png"
                draw(board, watched.prometheus, since_s, file)
                print(f"docs/images/{file.name}: {file.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
