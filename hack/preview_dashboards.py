"""Draw every dashboard from a real Prometheus.

`make dashboards-preview`: over a simulated cluster under traffic, a minute, to docs/images.
`make dashboards-preview WATCH=...`: over a cluster that runs, until it ends or Ctrl-C; WATCH is the
prometheus.json of `epd up` or `epd demo`, or the HOST:PORTs of `/metrics`.
`make dashboards-preview URL=...`: from a Prometheus that has watched for a while.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
from kube.binaries import ROOT, UnavailableError
from monitoring.boards import BOARDS
from monitoring.live.prometheus import Prometheus, PrometheusServer, Target
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import MODEL, Watched, until, watched_cluster
from monitoring.pictures import draw

IMAGES: Final = ROOT / "docs" / "images"
DRAWN: Final = ROOT / "build" / "dashboards"
PICTURES: Final = Mix(clients=10, pictures=4, tokens=10)
WORDS: Final = Mix(clients=24, pictures=0, tokens=60)
PHASE_S: Final = 12.0
LOOK_S: Final = 0.5
_ADDRESS: Final = re.compile(r"[\w.\-\[\]:]+:\d+")


def main() -> int:
    """Draw all; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", help="a Prometheus that scrapes the cluster already")
    parser.add_argument("--rate-interval", default="1m", help="with --url: four scrapes or more")
    parser.add_argument("--minutes", type=float, default=15.0, help="with --url: how far back")
    parser.add_argument("--watch", nargs="+", metavar="FILE|HOST:PORT", help="what to scrape")
    parser.add_argument("--to", type=Path, default=DRAWN, help="with --url and --watch: the folder")
    given = parser.parse_args()
    try:
        if given.url:
            since_s = time.time() - 60 * given.minutes
            draw_all(Prometheus(given.url, given.rate_interval), since_s, given.to)
        elif given.watch:
            watch(given.watch, given.to)
        else:
            rehearse()
    except (UnavailableError, httpx.TransportError, ValueError) as error:
        print(f"dashboards-preview: error: {given.url or ''} {error}", file=sys.stderr)
        return 1
    return 0


def rehearse() -> None:
    """Draw a simulated cluster: pictures, then words, then pictures, and some mischief."""
    with tempfile.TemporaryDirectory(prefix="epd-preview-") as name:
        print("a simulated cluster and Prometheus start")
        with watched_cluster(Path(name)) as watched:
            since_s = time.time()
            print(f"pictures, words, pictures: {PHASE_S:.0f} s each")
            serve(watched)
            draw_all(watched.prometheus, since_s, IMAGES)


def serve(watched: Watched) -> None:
    """Send pictures, then words, then pictures, and some mischief."""
    with Traffic(watched.url, MODEL, PICTURES) as traffic:
        until(lambda: traffic.answered)
        for mix in (PICTURES, WORDS, PICTURES):
            traffic.mix = mix
            time.sleep(PHASE_S)
            traffic.be_rude()


def watch(sources: Sequence[str], folder: Path) -> None:
    """Watch a cluster that runs, until it ends or Ctrl-C, and draw what was seen.

    Args:
        sources: Files of `file_sd_configs`, which go when their cluster ends, or HOST:PORTs.
        folder: Where pictures go.

    Raises:
        ValueError: A source is neither.
    """
    files = [Path(each).resolve() for each in sources if not _ADDRESS.fullmatch(each)]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file; `epd up` and `epd demo` write one")
    labels = {"namespace": "local", "epd_dev_cluster": "watched"}
    targets = [Target(each, labels) for each in sources if _ADDRESS.fullmatch(each)]
    with (
        tempfile.TemporaryDirectory(prefix="epd-preview-") as name,
        PrometheusServer(Path(name) / "prometheus", target_files=files) as server,
    ):
        server.set_targets(targets)
        since_s = time.time()
        print(f"Prometheus at {server.url} watches; Ctrl-C ends it and draws", flush=True)
        with suppress(KeyboardInterrupt):
            while not files or all(file.is_file() for file in files):
                time.sleep(LOOK_S)
        draw_all(server, since_s, folder)


def draw_all(server: Prometheus, since_s: float, folder: Path) -> None:
    """Draw every board, with what happened since a Unix time."""
    for board in BOARDS:
        file = folder / f"{board.uid}.png"
        draw(board, server, since_s, file)
        shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        print(f"{shown}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    sys.exit(main())
