"""The live views of a cluster that `epd up` runs: in a terminal, as plain text, in a browser."""

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import headless_browser
import httpx
import pytest
from headless_browser import Browser
from PIL import Image
from running_cluster import Cluster

from epd.vocabulary import Role

pytestmark = pytest.mark.timeout(300)
TOP = (sys.executable, "-m", "epd_cli", "top")
SIZES = {"phone": (390, 844), "laptop": (1280, 800), "wall": (1920, 1080)}
PATIENCE_S = 120
CHROMIUM = headless_browser.program()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    spec = {
        "apiVersion": "epd.dev/v1alpha1",
        "kind": "EPDCluster",
        "metadata": {"name": "seen"},
        "spec": {
            "model": {"source": "simulated", "servedName": "simulated"},
            "engine": {"type": "Simulated"},
            "replicas": 3,
            "method": "E-P-D",
            "slo": {"ttftMilliseconds": 60000, "tpotMilliseconds": 10000},
            "control": {"mode": "Shadow", "intervalSeconds": 1},
        },
    }
    running = Cluster(spec, tmp_path_factory.mktemp("seen"))
    running.start()
    try:
        yield running
    finally:
        running.stop()


def chat(cluster: Cluster) -> None:
    """Have something to show: what ended a minute ago is shown no more."""
    with cluster.client() as client:
        client.chat.completions.create(
            model="simulated",
            max_tokens=8,
            messages=[{"role": "user", "content": "a very private question"}],
        )


def once(cluster: Cluster) -> str:
    """Return what `epd top --once` prints."""
    command = [*TOP, "--once", "--state-dir", str(cluster.state.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_once_prints_plain_text_of_pods_stages_objective_and_decisions(cluster):
    deadline_s = time.monotonic() + PATIENCE_S
    chat(cluster)
    while "Shadow: " not in (text := once(cluster)):  # the loop's first pass
        assert time.monotonic() < deadline_s, text
        chat(cluster)
    assert text.isascii()
    assert "\x1b" not in text
    assert "MET 100 %" in text
    assert max(map(len, text.splitlines())) <= 80
    for pod, role in zip(cluster.pods, ("encode", "prefill", "decode"), strict=True):
        assert re.search(rf"^{role} +{pod} ", text, re.MULTILINE), text
    assert re.search(r"^prefill +[1-9]\d* +0 +0", text, re.MULTILINE), text
    assert "private" not in text


def test_once_says_why_when_no_cluster_runs(tmp_path):
    command = [*TOP, "--once", "--state-dir", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_a_pipe_is_told_to_ask_for_plain_text(cluster):
    command = [*TOP, "--state-dir", str(cluster.state.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "--once" in done.stderr


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_of_80_by_24_follows_a_flip_and_is_left_as_it_was(cluster, colour):
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
    for name in ("COLUMNS", "LINES", "FORCE_COLOR"):
        environment.pop(name, None)
    top = subprocess.Popen(
        [*TOP, "--state-dir", str(cluster.state.path)],
        stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    pod = cluster.pods[0]
    try:
        cluster.flip(pod, Role.ENCODE)
        seen = read_until(terminal, rf"encode +{pod} ")
        cluster.flip(pod, Role.DECODE)
        seen += read_until(terminal, rf"decode +{pod} ")
        top.send_signal(signal.SIGINT)
        seen += read_until(terminal, re.escape("\x1b[?1049l"))
        assert top.wait(timeout=PATIENCE_S) == 130
    finally:
        top.kill()
        top.wait()
        os.close(terminal)
        cluster.flip(pod, Role.ENCODE)
    assert "\x1b[?1049h" in seen
    coloured = re.search(r"\x1b\[[0-9;]*3[0-9]", seen) is not None
    assert coloured is colour


def read_until(terminal: int, pattern: str) -> str:
    """Return what a terminal shows until it shows `pattern`."""
    text, deadline_s = "", time.monotonic() + PATIENCE_S
    while not re.search(pattern, text):
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline_s - time.monotonic()))
        assert ready, text
        text += os.read(terminal, 1 << 16).decode(errors="replace")
    return text


@pytest.fixture
def browser(cluster: Cluster, tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with headless_browser.browser(CHROMIUM, tmp_path / "profile") as opened:
        yield opened


def test_a_browser_shows_the_fleet_at_every_size_and_asks_nobody_else(cluster, browser, tmp_path):
    admin = cluster.running.admin_url
    browser.open(f"{admin}/live")
    browser.until("document.querySelectorAll('.pod').length === 3")
    chat(cluster)
    browser.until("document.getElementById('attained').textContent === '100 %'")
    for name, (width, height) in SIZES.items():
        browser.resize(width, height)
        browser.until(f"window.innerWidth === {width}")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, name
        shot = Image.open(io.BytesIO(browser.screenshot()))
        assert shot.size == (width, height)
        colours = shot.convert("RGB").resize((64, 64)).getcolors(64 * 64) or []
        assert len(colours) > 20, "it is blank"
        shot.save(screenshots(tmp_path) / f"live-{name}.png")
    assert all(url.startswith((admin, "about:")) for url in browser.requested())
    assert "private" not in browser.evaluate("document.body.textContent")
    assert [c for c in browser.complaints() if "favicon" not in c and "404" not in c] == []


def test_a_tile_of_an_open_page_changes_colour_with_its_pods_role(cluster, browser):
    browser.open(f"{cluster.running.admin_url}/live")
    pod = cluster.pods[1]
    colour = f"getComputedStyle(document.querySelector('[data-pod=\"{pod}\"]')).backgroundColor"
    browser.until("document.querySelectorAll('.pod.prefill').length === 1")
    browser.until("getComputedStyle(document.querySelector('.pod.prefill')).backgroundColor")
    before = browser.evaluate(colour)
    cluster.flip(pod, Role.DECODE)
    try:
        browser.until("document.querySelectorAll('.pod.decode').length === 2")
        browser.until(f"{colour} !== '{before}'")
        browser.until(
            f"document.getElementById('decisions').textContent.includes('{pod}: prefill → decode')"
        )
    finally:
        cluster.flip(pod, Role.PREFILL)


def test_the_page_says_so_when_the_gateway_is_gone(cluster, browser):
    browser.open(f"{cluster.running.admin_url}/live")
    browser.until("document.querySelectorAll('.pod').length === 3")
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0,
                 downloadThroughput=0, uploadThroughput=0)  # fmt: skip
    browser.until("!document.getElementById('trouble').hidden")


def test_another_site_cannot_reach_the_page_by_a_name_of_its_own(cluster):
    url = f"{cluster.running.admin_url}/snapshot"
    assert httpx.get(url).status_code == 200
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 404
    assert httpx.post(url).status_code == 405


def screenshots(folder: Path) -> Path:
    """Return where pictures go: where EPD_SCREENSHOTS says, to be looked at, or nowhere."""
    chosen = Path(os.environ.get("EPD_SCREENSHOTS") or folder)
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen
