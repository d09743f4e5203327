"""One flip of the control loop, seen where a person looks: terminal, browser, dashboards."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import headless_browser
import pytest
from headless_browser import Browser
from monitoring.boards import BOARDS
from monitoring.live.answers import filled
from monitoring.live.prometheus import PrometheusServer
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import until
from monitoring.pictures import draw, flips_of
from PIL import Image
from programs_of_prometheus import needs_prometheus
from running_cluster import Cluster

from epd.vocabulary import Role
from epd_operator.local_roster import RosterFile

CHROMIUM = headless_browser.program()
MODEL = "simulated"
PICTURES = Mix(clients=6, pictures=3, tokens=10)
(ELASTICITY,) = (board for board in BOARDS if board.title == "Elasticity")
(PODS_BY_ROLE,) = (p for _, row in ELASTICITY.rows for p in row if p.title == "Pods by role")

# Pictures keep the only encoder busy: the loop gives it one of the decoders, and there is no more.
CURVES = """
encode: {batch_ms: 0, image_ms: [[0, 250]], max_batch_images: 1}
prefill_ms: [[0, 20]]
decode_step: {batch_ms: [[1, 5]], ms_per_1000_tokens: 0}
"""

pytestmark = [pytest.mark.timeout(300), needs_prometheus]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    curves = tmp_path / "curves.yaml"
    curves.write_text(CURVES)
    spec = {
        "model": {"source": MODEL, "servedName": MODEL},
        "engine": {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}},
        "replicas": 4,
        "method": "E-P-D",
        "slo": {"ttftMilliseconds": 1500, "tpotMilliseconds": 60},
        "control": {"mode": "Active", "intervalSeconds": 1, "cooldownSeconds": 0},
    }
    running = Cluster(
        {
            "apiVersion": "epd.dev/v1alpha1",
            "kind": "EPDCluster",
            "metadata": {"name": "seen"},
            "spec": spec,
        },
        tmp_path,
    )
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[PrometheusServer]:
    files = [cluster.state.targets_file]
    with PrometheusServer(tmp_path / "prometheus", target_files=files) as server:
        yield server


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with headless_browser.browser(CHROMIUM, tmp_path / "profile") as opened:
        yield opened


def roles(cluster: Cluster) -> dict[str, Role]:
    return {pod.name: pod.role for pod in RosterFile(cluster.state.roster_file).read().workers}


def shown_by_prometheus(server: PrometheusServer) -> dict[str, float]:
    """Return what the panel of pods by role shows now."""
    (query,) = PODS_BY_ROLE.queries
    found = server.ask("query", query=filled(query.expr, server.rate_interval))["result"]
    return {each["metric"]["role"]: float(each["value"][1]) for each in found}


def test_a_flip_of_the_loop_is_seen_in_terminal_browser_and_dashboards_with_its_reason(
    cluster: Cluster, prometheus: PrometheusServer, browser: Browser, tmp_path: Path
) -> None:
    since_s, before = time.time(), roles(cluster)
    browser.open(f"{cluster.running.admin_url}/live")
    browser.until("document.querySelectorAll('.pod.encode').length === 1")
    until(lambda: shown_by_prometheus(prometheus) == Counter(before.values()))

    with Traffic(cluster.running.gateway_url, MODEL, PICTURES):
        until(lambda: roles(cluster) != before)
        after = roles(cluster)
        (pod,) = (name for name in before if before[name] is not after[name])
        flip = f"{before[pod]} → {after[pod]}"
        assert after[pod] is Role.ENCODE

        # In the browser: the tile's colour, the flip, and what the loop says.
        browser.until(f"document.querySelector('[data-pod=\"{pod}\"]').matches('.encode')")
        page = "document.getElementById('decisions').textContent"
        browser.until(f"{page}.includes('{pod}: {flip}')")
        browser.until(f"{page}.includes('Demand encode')")

        # In the terminal.
        said = ""

        def top_shows_it() -> bool:
            nonlocal said
            command = [sys.executable, "-m", "epd_cli", "top", "--once"]
            command += ["--state-dir", str(cluster.state.path)]
            said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
            return re.search(rf"^encode +{pod} ", said, re.MULTILINE) is not None

        until(top_shows_it)
        assert re.search(r"^  Demand encode: ", said, re.MULTILINE), said

        # In the dashboards: pods by role, and the annotation with its reason.
        until(lambda: shown_by_prometheus(prometheus) == Counter(after.values()))
        until(lambda: flips_of(prometheus, since_s))
    assert roles(cluster) == after
    ((_, title),) = flips_of(prometheus, since_s)
    assert re.fullmatch(rf"{before[pod]} becomes encode: [A-Z]\w+", title)
    drawn = tmp_path / "elasticity.png"
    draw(ELASTICITY, prometheus, since_s, drawn)
    with Image.open(drawn) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16) or ()}
    purple = [(r, g, b) for r, g, b in colours if abs(r - b) < 24 and min(r, b) - g > 40]
    assert purple, "no line where the flip was made"
