#!/bin/sh
# Installs one program of this project, from the lock files, into an environment of its own.
#
#   docker/build_venv.sh TARGET EXTRA [ENGINE_LOCK]
#
# TARGET: the environment's folder, where it stays. EXTRA: an extra of pyproject.toml.
# ENGINE_LOCK: a file of locks/ that is installed as it stands, first; such a lock is complete.
# TORCH_INDEX: one more index, for builds of torch that the usual one lacks.
set -eu

target=$1 extra=$2 engine=${3:-}
root=$(cd "$(dirname "$0")/.." && pwd)
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

cd "$root"
uv venv --quiet --python python3.11 "$target"
if [ -n "$engine" ]; then
    uv pip install --quiet --python "$target/bin/python" --compile-bytecode \
        --no-deps --requirements "$engine" \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX" --index-strategy unsafe-best-match}
fi
uv build --quiet --wheel --build-constraints locks/base.txt --out-dir "$wheels" .
uv pip install --quiet --python "$target/bin/python" --constraints locks/base.txt --compile-bytecode \
    "epd-operator[$extra] @ file://$(ls "$wheels"/*.whl)"
