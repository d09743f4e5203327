"""Check what no linter checks: sizes, file names, and the guard of Python's own `operator`.

Prints one line a fault, `file:line: what is wrong and what to do`; the exit status is 1 if there is
one. Generated stubs are exempt.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 400
FUNCTION_LINES = 70
LINE_CHARACTERS = 100
ROOMS = ("core", "operator", "gateway", "worker", "sim", "cli", "tests", "bench", "hack")
GENERATED = "*_pb2.py"
# A module is named after what it knows; these names say nothing.
BANNED_NAMES = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
# Either one makes `import operator`, and with it most of Python, find our folder.
SHADOWS = ("operator/__init__.py", "operator/conftest.py")


def module_faults(path: Path, text: str) -> Iterator[str]:
    """Yield the faults of one module."""
    lines = text.splitlines()
    if path.stem in BANNED_NAMES:
        yield f"{path}:1: `{path.stem}` says nothing; name the module after what it knows"
    if len(lines) > MODULE_LINES:
        yield f"{path}:1: {len(lines)} lines, at most {MODULE_LINES}; split the module"
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_CHARACTERS:
            yield f"{path}:{number}: {len(line)} characters, at most {LINE_CHARACTERS}"
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"{path}:{error.lineno}: {error.msg}; it does not parse"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield (
                    f"{path}:{node.lineno}: {node.name}() has {length} lines, "
                    f"at most {FUNCTION_LINES}; split the function"
                )


def tree_faults(root: Path) -> Iterator[str]:
    """Yield every fault of the tree under `root`, in the order of its files."""
    for name in SHADOWS:
        if (root / name).exists():
            yield f"{name}:1: breaks Python's own operator module; remove it"
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            if not path.match(GENERATED):
                yield from module_faults(path.relative_to(root), path.read_text())


def main() -> int:
    """Print the faults of this repository; return the exit status."""
    faults = list(tree_faults(Path(__file__).resolve().parent.parent))
    print("\n".join(faults) if faults else "sizes and names: nothing to mend")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
