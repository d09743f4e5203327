"""The documentation's site builds strictly, and a reader of it asks nobody else for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself: not the links that a reader may follow.
FETCHED = re.compile(
    r"""<(?:script|img|iframe)[^>]*\ssrc="(https?:)?//[^"]*"
      | <link[^>]*\srel="(?:stylesheet|preconnect|preload|icon)"[^>]*\shref="(https?:)?//[^"]*"
      | url\(["']?(https?:)?//""",
    re.VERBOSE,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built as `make docs` builds it: any warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_and_every_link_of_the_site_is_good(site: Path) -> None:
    assert "EPDCluster" in (site / "api.html").read_text(encoding="utf-8")
    # What a page links to outside docs/ comes along.
    assert (site / "examples" / "tiny.yaml").is_file()
    assert (site / "charts" / "epd" / "README.html").is_file() or (
        site / "charts" / "epd" / "index.html"
    ).is_file()


def test_strictness_covers_dead_links_and_unlisted_pages() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["strict"] is True
    assert set(settings["validation"].values()) == {"warn"}
    assert {"omitted_files", "anchors"} <= set(settings["validation"])


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 40
    found = [(page.name, FETCHED.search(page.read_text(encoding="utf-8"))) for page in pages]
    assert [(name, match[0]) for name, match in found if match] == []
