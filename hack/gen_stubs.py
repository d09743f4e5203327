"""Generate the Python stubs of core/epd/wire/worker.proto, or with `--check` compare them.

Messages only: the methods are written once for both ends in epd.wire.service.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

CORE = Path(__file__).resolve().parent.parent / "core"
PROTO = Path("epd/wire/worker.proto")


def generate(out: Path) -> list[Path]:
    """Write the stubs below `out`; return their paths relative to it."""
    arguments = [
        "protoc",
        f"--proto_path={CORE}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        str(PROTO),
    ]
    if protoc.main(arguments) != 0:
        sys.exit(f"core/{PROTO} does not compile; see above")
    return sorted(path.relative_to(out) for path in out.rglob("worker_pb2*"))


def differing() -> list[Path]:
    """Return the stubs that are not what the proto generates."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        stubs = generate(fresh)
        stale = [
            stub
            for stub in stubs
            if not (CORE / stub).is_file()
            or (CORE / stub).read_bytes() != (fresh / stub).read_bytes()
        ]
        left_over = {p.relative_to(CORE) for p in (CORE / PROTO.parent).glob("*_pb2*")} - set(stubs)
    return stale + sorted(left_over)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        stale_stubs = differing()
        if stale_stubs:
            names = ", ".join(f"core/{stub}" for stub in stale_stubs)
            sys.exit(f"not what core/{PROTO} generates: {names}; run `make gen`")
        print("generated stubs: up to date")
    else:
        for written in generate(CORE):
            print(f"core/{written}")
