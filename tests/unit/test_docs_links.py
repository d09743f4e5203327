"""What the docs name exists: files, classes and methods, links, settings and commands."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from epd_gateway.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
)
ROOMS = ("core", "gateway", "worker", "operator", "sim", "cli", "tests", "bench", "hack")
SUFFIXES = ("md", "py", "proto", "toml", "txt", "yaml")
# Files that a running cluster, a generator or a plan that was dropped has.
NOT_OURS = {
    "control.py", "enact.py", "handoff.py", "handlers.py", "cluster.yaml", "photo.png",
}  # fmt: skip


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def words(page: Path) -> Iterator[str]:
    """Yield what stands between backticks, code blocks apart."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", text)


@cache
def files() -> tuple[str, ...]:
    """Return the paths of the repository's files, from its root."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    found += [*DOCS.rglob("*.md"), *(ROOT / "locks").iterdir(), *(ROOT / "examples").iterdir()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return tuple(f"/{path.relative_to(ROOT)}" for path in found)


@cache
def members() -> dict[str, set[str]]:
    """Return the classes of our packages, with the names that are defined or assigned in them."""
    classes: dict[str, set[str]] = {}
    for room in ROOMS[:6]:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    classes.setdefault(node.name, set()).update(_names_in(node))
    return classes


def _names_in(node: ast.ClassDef) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner.name
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            yield inner.target.id


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = {
        word
        for word in words(page)
        if re.fullmatch(rf"[\w./-]+\.({'|'.join(SUFFIXES)})", word) and word not in NOT_OURS
    }
    assert [word for word in named if not any(f.endswith(f"/{word}") for f in files())] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_folder_that_a_page_names_exists(page: Path) -> None:
    named = {word for word in words(page) if re.fullmatch(rf"({'|'.join(ROOMS)})/[\w/]*/?", word)}
    assert [word for word in named if not (ROOT / word).is_dir()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inside = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_member_of_a_class_of_ours_that_a_page_names_exists(page: Path) -> None:
    dotted = [word.split(".") for word in words(page) if re.fullmatch(r"[A-Z]\w+\.\w+", word)]
    ours = [(name, member) for name, member in dotted if name in members()]
    assert [pair for pair in ours if pair[1] not in members()[pair[0]]] == []


@pytest.mark.parametrize("page", [DOCS / "architecture.md"], ids=name_of)
def test_every_class_that_the_architecture_names_exists(page: Path) -> None:
    named = {word.partition(".")[0] for word in words(page) if re.match(r"[A-Z]\w*[a-z]\w*", word)}
    theirs = {"Generate(DECODE)", "Generate(WHOLE)", "WatchLoad"}  # of the wire
    assert sorted(name for name in named - theirs if name not in members()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_target_of_make_that_a_page_names_exists(page: Path) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.MULTILINE))
    named = {found[1] for word in words(page) if (found := re.match(r"make ([a-z][\w-]*)", word))}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    groups = {name: field.default for name, field in Settings.model_fields.items()}
    named = [word.split(".") for word in words(page) if re.fullmatch(r"[a-z]+\.[a-z_]+", word)]
    settings = [pair for pair in named if pair[0] in groups and pair[1] not in SUFFIXES]
    assert [pair for pair in settings if pair[1] not in type(groups[pair[0]]).model_fields] == []


def test_decisions_are_numbered_without_a_gap_and_say_where_they_stand() -> None:
    pages = sorted((DOCS / "adr").glob("0*.md"))
    listed = re.findall(r"\]\((.+)\)", (DOCS / "adr" / "README.md").read_text(encoding="utf-8"))
    assert listed == [page.name for page in pages]
    numbers = [int(page.name[:4]) for page in pages]
    assert sorted(set(numbers)) == numbers
    for number, page in zip(numbers, pages, strict=True):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {number}. "), page.name
        for part in ("Status: ", "## Context", "## Decision", "## Consequences"):
            assert part in text, (page.name, part)
        assert len(text.splitlines()) <= 90, page.name
