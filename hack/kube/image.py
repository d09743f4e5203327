"""Makes a container image without a registry: an OCI archive for `ctr images import`."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_OCI: Final = "application/vnd.oci.image"
_PATH: Final = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

# With these, a mount of the machine's /usr brings its loader and libraries, too.
_LINKS: Final = {"lib": "usr/lib", "lib64": "usr/lib64"}
_FOLDERS: Final = (
    *("etc", "usr", "usr/lib", "usr/lib64", "usr/bin", "root", "proc", "sys", "dev", "run", "var"),
    *("tmp", "bin"),
)
_ETC: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def write_busybox_image(path: Path, name: str, busybox: Path, command: Sequence[str] = ()) -> None:
    """Write an image with a shell, the usual small commands and hardly anything else."""
    files: dict[str, Path | str] = {"bin/busybox": busybox, **_ETC}
    applets = subprocess.check_output([busybox, "--list"], text=True).split()
    links = {**_LINKS, **{f"bin/{applet}": "busybox" for applet in applets}}
    write_image(path, name, files, links=links, folders=_FOLDERS, command=command or ("/bin/sh",))


def write_image(
    path: Path,
    name: str,
    files: Mapping[str, Path | str],
    *,
    links: Mapping[str, str] | None = None,
    folders: Sequence[str] = (),
    command: Sequence[str] = (),
) -> None:
    """Write an image of one layer to the archive `path`.

    Args:
        path: Where the archive goes.
        name: `HOST/NAME:TAG`, as a pod says it.
        files: What is at each path in the image: the text itself, or a file or folder to copy.
        links: Symbolic links, each with what it points to.
        folders: Empty folders.
        command: What a container runs unless it says otherwise.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        for link, target in (links or {}).items():
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for place, content in files.items():
            if isinstance(content, Path):
                tar.add(content.resolve(), arcname=place, filter=_anonymous)
            else:
                _add(tar, place, content.encode())
    raw = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [_PATH], "Cmd": list(command), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(raw)]},
    }
    _write_archive(path, name, config, gzip.compress(raw, compresslevel=1, mtime=0))


def _write_archive(path: Path, name: str, config: Mapping[str, Any], layer: bytes) -> None:
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, Any]:
        blobs[_digest(data)] = data
        return {"mediaType": f"{_OCI}.{kind}", "digest": _digest(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [blob("layer.v1.tar+gzip", layer)],
    }
    entry = blob("manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]}
    with tarfile.open(path, "w") as tar:
        for place, data in _archive_files(index, blobs):
            _add(tar, place, data)


def _archive_files(
    index: Mapping[str, Any], blobs: Mapping[str, bytes]
) -> Iterator[tuple[str, bytes]]:
    yield "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    yield "index.json", json.dumps(index).encode()
    for digest, data in blobs.items():
        yield f"blobs/sha256/{digest.removeprefix('sha256:')}", data


def _add(tar: tarfile.TarFile, place: str, data: bytes) -> None:
    info = tarfile.TarInfo(place)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave times and owners out, so that equal files make an equal image."""
    info.mtime = info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
