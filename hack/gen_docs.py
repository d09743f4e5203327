"""Write the parts of docs/ that are made from code, or with `--check` compare them.

The field tables of docs/api.md come from the models, docs/cli.md from the parsers of both commands,
the codes of docs/errors.md from the gateway's table of kinds.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# argparse breaks lines at the terminal's width, and reads it where it formats.
os.environ["COLUMNS"] = "100"

from epd.api.docs import between, with_field_tables
from epd_cli import __main__ as epd
from epd_cli import kubectl_epd
from epd_gateway.errors import ENGINE_CODES, KINDS, ClientGone

ROOT = Path(__file__).resolve().parent.parent
API, COMMANDS = ROOT / "docs" / "api.md", ROOT / "docs" / "cli.md"
ERRORS = ROOT / "docs" / "errors.md"
CODES_BEGIN = "<!-- codes: begin (made by hack/gen_docs.py, not by hand) -->"
CODES_END = "<!-- codes: end -->"
HEAD = """\
# Commands

What `--help` says. Exit status of all: 0 done, 1 it did not work, 2 it made no sense, 130
interrupted. `make env LIGHT=1` puts both programs into `.venv/bin`; kubectl finds `kubectl-epd` on
PATH, and with `kubectl_complete-epd` beside it Tab works, too. [Live views](seeing.md) and
[the simulator](simulator.md) say more of some.
"""


def commands_text() -> str:
    """Return the page of both commands and all of their subcommands."""
    lines = [HEAD]
    for parser in (epd.parser(), kubectl_epd.parser()):
        lines += [f"## {parser.prog}", "", *_help_of(parser)]
        for command in _subcommands(parser):
            lines += [f"### {command.prog}", "", *_help_of(command)]
    return "\n".join([*lines, "Made by `make gen`, not by hand.", ""])


def with_codes(page: str) -> str:
    """Return the page of errors with today's codes between its two marks.

    Raises:
        ValueError: A mark is missing.
    """
    return between(page, CODES_BEGIN, CODES_END, codes_table())


def codes_table() -> str:
    """Return what a client can be answered, by status and code."""
    rows = [
        (kind.status, kind.code or "", kind.type, kind.retry_after_s, cause.__doc__ or "")
        for cause, kind in KINDS.items()
        if cause is not ClientGone
    ]
    rows += [
        (400, code, "invalid_request_error", None, when) for code, when in ENGINE_CODES.items()
    ]
    lines = ["| code | status | type | `retry-after` | when |", "|---|---|---|---|---|"]
    for status, code, kind, retry_after_s, when in sorted(rows, key=lambda row: row[:2]):
        shown = f"`{code}`" if code else "null"
        seconds = f"{retry_after_s} s" if retry_after_s else ""
        lines.append(f"| {shown} | {status} | `{kind}` | {seconds} | {when} |")
    return "\n".join([*lines, ""])


def _help_of(parser: argparse.ArgumentParser) -> list[str]:
    return ["```text", parser.format_help().strip(), "```", ""]


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def files() -> dict[Path, str]:
    """Return every generated file with what it must hold."""
    return {
        API: with_field_tables(API.read_text(encoding="utf-8")),
        COMMANDS: commands_text(),
        ERRORS: with_codes(ERRORS.read_text(encoding="utf-8")),
    }


def main(arguments: list[str]) -> int:
    """Write or compare; return the exit status."""
    for path, text in files().items():
        shown = path.relative_to(ROOT)
        if arguments != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{shown} is not what it is made from; run `make gen`")
            return 1
        print(shown if arguments != ["--check"] else f"{shown}: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
