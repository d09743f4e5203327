"""Write the CustomResourceDefinitions of crds/ from the models, or with `--check` compare them."""

import sys
from pathlib import Path

from epd.api.crd import FILE_NAME, MAX_BYTES, crd_text

FILE = Path(__file__).resolve().parent.parent / "crds" / FILE_NAME


def main(arguments: list[str]) -> int:
    """Write or compare; return the exit status."""
    text = crd_text()
    shown = f"crds/{FILE.name}"
    if len(text.encode()) > MAX_BYTES:
        print(f"{shown}: {len(text.encode())} bytes, at most {MAX_BYTES}; shorten the models")
        return 1
    if arguments == ["--check"]:
        if not FILE.is_file() or FILE.read_text(encoding="utf-8") != text:
            print(f"{shown} is not what core/epd/api generates; run `make gen`")
            return 1
        print(f"{shown}: up to date")
        return 0
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text, encoding="utf-8")
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
