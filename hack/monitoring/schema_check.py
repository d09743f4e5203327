"""Judges dashboards by Grafana's own types: `@grafana/schema`, compiled by tsc.

Each board becomes a literal of the type `Dashboard`, so that the compiler refuses what Grafana has
no field for, and values that a field does not take. The options of a kind of panel are not in that
type: they are made by the SDK, which has types of its own.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).with_name("schema")
NPM_TIMEOUT_S: Final = 120
_PATIENCE: Final = ("--fetch-retries=1", "--fetch-timeout=20000")
OF_PROMETHEUS: Final = ("expr", "step", "titleFormat")
"""Fields of an annotation that its datasource adds to the type."""

_TYPES: Final = """\
import type { Dashboard } from "@grafana/schema";

// JSON has the values of enums, not their members.
type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : number
    : T extends (infer U)[]
      ? Plain<U>[]
      : T extends object
        ? { [K in keyof T]: Plain<T[K]> }
        : T;

"""


class SchemaUnavailableError(Exception):
    """Node, npm or the packages cannot be had; the message is one line."""


def install(folder: Path) -> None:
    """Install compiler and types into an empty folder, as the lock file says.

    Raises:
        SchemaUnavailableError: They cannot be had.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SchemaUnavailableError("npm is not installed")
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    try:
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *_PATIENCE],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=NPM_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise SchemaUnavailableError("npm does not get the packages in time") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["without a word"])[0]
        raise SchemaUnavailableError(f"npm does not get the packages: {said}")


def complaints(folder: Path, documents: Iterable[dict[str, Any]]) -> list[str]:
    """Return what the compiler has against dashboards; the folder is one of `install`."""
    literals = [
        f"export const board{number}: Plain<Dashboard> = {json.dumps(_own(document), indent=1)};\n"
        for number, document in enumerate(documents)
    ]
    (folder / "check.ts").write_text(_TYPES + "".join(literals), encoding="utf-8")
    compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        ["node", str(compiler), "-p", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=NPM_TIMEOUT_S,
    )
    return done.stdout.splitlines() or [done.stderr] * bool(done.returncode)


def _own(document: dict[str, Any]) -> dict[str, Any]:
    """Return a dashboard without what its datasource adds to Grafana's type."""
    told = document["annotations"]
    annotations = [
        {name: value for name, value in each.items() if name not in OF_PROMETHEUS}
        for each in told.get("list", [])
    ]
    return {**document, "annotations": {**told, "list": annotations}}
