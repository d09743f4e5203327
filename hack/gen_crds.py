"""Write the CustomResourceDefinitions of crds/ from the models, or with `--check` compare them."""

import sys

from generated import ROOT, write_or_compare

from epd.api.crd import FILE_NAME, MAX_BYTES, crd_text

FILE = ROOT / "crds" / FILE_NAME


def main(arguments: list[str]) -> int:
    """Write or compare; return the exit status."""
    text = crd_text()
    shown = f"crds/{FILE.name}"
    if len(text.encode()) > MAX_BYTES:
        print(f"{shown}: {len(text.encode())} bytes, at most {MAX_BYTES}; shorten the models")
        return 1
    return write_or_compare({FILE: text}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
