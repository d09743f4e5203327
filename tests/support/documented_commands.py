"""The commands that README and docs tell a reader to type, in the order of the site."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# It removes everything, so a reader comes here last.
LAST = "docs/howto/back-out.md"
PROGRAMS = r"(\.venv/bin/\S+|curl|docker|epd|export|git|helm|kubectl|make|openssl|pip|python3?)"
_FENCE = re.compile(r"^ *```(\w*)")
_COMMENT = re.compile(r"(^|\s)#\s.*$")
_BLOCK_ENDS = ("done", "fi", "}")
_MARK = re.compile(rf"<!-- ({PROGRAMS} .*) -->")
# What is shown there came from the cluster that the commands of the page are run on.
SHOWN_WHOLE = ("README.md", "docs/start.md")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page.

    Attributes:
        page: Path from the root.
        line: Where it begins there.
        text: As it is typed, comments apart.
    """

    page: str
    line: int
    text: str

    @property
    def key(self) -> str:
        """The same for commands that do the same."""
        return " ".join(self.text.replace(".venv/bin/", "").replace("\\\n", " ").split())

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.key}"


@dataclass(frozen=True, slots=True)
class Output:
    """What a page shows of a command's output: the block below a comment that names the command.

    Attributes:
        page: Path from the root.
        line: Where it begins there.
        key: The command; see `Command.key`.
        lines: What is shown.
    """

    page: str
    line: int
    key: str
    lines: tuple[str, ...]

    def lacking_in(self, said: str) -> list[str]:
        """Return the lines whose form the command's real output has not.

        Of a table's head all columns must be there, in their order. Of other lines the word they
        begin with, where it is one; numbers and what follows them differ from run to run.
        """
        real = [line.split() for line in said.splitlines()]
        first = {words[0] for words in real if words}
        lacking = []
        for line in self.lines:
            words = line.split()
            if is_head(words):
                lacking += [line] if words not in real else []
            elif self.page in SHOWN_WHOLE and words and words[0].rstrip(":").isalpha():
                lacking += [line] if words[0] not in first else []
        return lacking


def is_head(words: list[str]) -> bool:
    """Tell whether a line of output is the head of a table: it shouts."""
    return bool(words) and all(re.fullmatch(r"[A-Z][A-Z/]+", word) for word in words[:2])


def pages() -> list[Path]:
    """Return README, docs and what else the site shows, in its order; `LAST` comes last."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [(DOCS / name if (DOCS / name).exists() else ROOT / name) for name in _leaves(nav)]
    others = [page for page in sorted(DOCS.rglob("*.md")) if page not in listed]
    found = [page for page in (*listed, *others) if page != ROOT / LAST]
    return [*found, ROOT / LAST]


def commands() -> list[Command]:
    """Return every command of every page."""
    return [command for page in pages() for command in commands_of(_name(page), _text(page))]


def commands_of(name: str, text: str) -> Iterator[Command]:
    """Yield the commands in the blocks of a page that are marked `sh`."""
    for first_line, language, lines in _blocks(text):
        if language == "sh":
            yield from _split(name, first_line, lines)


def outputs() -> list[Output]:
    """Return every output of every page."""
    return [output for page in pages() for output in outputs_of(_name(page), _text(page))]


def outputs_of(name: str, text: str) -> Iterator[Output]:
    """Yield the blocks of a page that stand below the name of a command."""
    page = text.splitlines()
    for first_line, language, lines in _blocks(text):
        mark = _MARK.fullmatch(page[first_line - 3].strip()) if first_line > 2 else None
        if mark and language != "sh":
            yield Output(name, first_line, mark[1], tuple(lines))


def nameless_outputs() -> list[str]:
    """Return the blocks of `SHOWN_WHOLE` that are no code and name no command."""
    named = {(output.page, output.line) for output in outputs()}
    return [
        f"{name}:{first_line}"
        for name in SHOWN_WHOLE
        for first_line, language, _ in _blocks(_text(ROOT / name))
        if language in ("", "text") and (name, first_line) not in named
    ]


def stray_commands() -> list[str]:
    """Return the lines that look like commands and stand in no block marked `sh`."""
    return [line for page in pages() for line in stray_commands_of(_name(page), _text(page))]


def stray_commands_of(name: str, text: str) -> Iterator[str]:
    """Yield such lines of one page: in other blocks, or indented after an empty line."""
    for first_line, language, lines in _blocks(text):
        for number, line in enumerate(lines, start=first_line):
            if language in ("", "bash", "shell", "console") and re.match(rf"{PROGRAMS} ", line):
                yield f"{name}:{number}: {line}"
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    for match in re.finditer(rf"\n\n    ({PROGRAMS} [^\n]*)", outside):
        yield f"{name}: {match[1]}"


def _blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each fenced block: the number of its first line, its language, its lines."""
    inside: list[str] | None = None
    language, first_line = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and inside is None:
            inside, language, first_line = [], fence[1], number + 1
        elif fence and inside is not None:
            yield first_line, language, inside
            inside = None
        elif inside is not None:
            inside.append(line)


def _split(name: str, first_line: int, lines: list[str]) -> Iterator[Command]:
    """Yield the commands of a block: one begins at each line that is not the last one's rest."""
    begun, text = first_line, ""
    for number, line in enumerate(lines, start=first_line):
        bare = _COMMENT.sub("", line).rstrip()
        goes_on = text.endswith("\\") or line.startswith((" ", *_BLOCK_ENDS))
        if text and not goes_on:
            yield Command(name, begun, text)
            text = ""
        if bare:
            begun, text = (begun, f"{text}\n{bare}") if text else (number, bare)
    if text:
        yield Command(name, begun, text)


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(each)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")
