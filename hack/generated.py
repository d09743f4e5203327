"""Files that are made and kept in the repository: written, or with `--check` compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_or_compare(files: Mapping[Path, str], arguments: Sequence[str]) -> int:
    """Write what each file must hold, or compare it with what it holds; return the exit status."""
    is_check = list(arguments) == ["--check"]
    for path, text in files.items():
        shown = path.relative_to(ROOT)
        if not is_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{shown} is not what it is made from; run `make gen`")
            return 1
        print(f"{shown}: up to date" if is_check else shown)
    return 0
