"""Finds the programs of Kubernetes and its neighbours on this machine, or fetches them.

Looked at in this order, program by program:

1. the folder that `KUBEBUILDER_ASSETS` names (the convention of Kubernetes' own envtest);
2. our cache, `$XDG_CACHE_HOME/epd-operator/kube` (`~/.cache/...` by default);
3. archives in `../shared/kube`, beside this checkout, with a `SHA256SUMS`; unpacked into the cache;
4. the official releases, with the sums published beside them; into the cache.

The fourth has Kubernetes, etcd and Helm; the others come by the first three alone.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from kube import releases

ROOT: Final = Path(__file__).resolve().parents[2]
ARCHIVES_FOLDER: Final = ROOT.parent / "shared" / "kube"
ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"

PROGRAMS_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "kubernetes": (
            *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
            *("kubelet", "kube-proxy"),
        ),
        "node": (
            *("containerd", "containerd-shim-runc-v2", "ctr", "runc"),
            *("bridge", "loopback", "host-local", "coredns", "nft", "busybox"),
        ),
        "helm": ("helm",),
        "kwok": ("kwok",),
        "prometheus": ("prometheus",),
        "promtool": ("promtool",),
        "toxiproxy": ("toxiproxy-server",),
    }
)
"""What each archive holds that we call."""


class UnavailableError(Exception):
    """A program is nowhere to be had; the message is one line that says where we looked."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look."""

    assets: Path | None
    cache: Path
    archives: Path

    @classmethod
    def of_this_machine(cls) -> "Places":
        """Read the environment."""
        assets = os.environ.get(ASSETS_VARIABLE)
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(
            Path(assets) if assets else None, Path(base) / "epd-operator" / "kube", ARCHIVES_FOLDER
        )


@cache
def find(*programs: str) -> Mapping[str, Path]:
    """Return the paths of `programs` on this machine, fetching what is not there.

    Raises:
        UnavailableError: One of them cannot be had.
    """
    return find_in(Places.of_this_machine(), *programs)


def find_in(places: Places, *programs: str) -> Mapping[str, Path]:
    """Return the paths of `programs`, looking in `places`; see `find`."""
    return MappingProxyType({program: _path_of(program, places) for program in programs})


def _path_of(program: str, places: Places) -> Path:
    if places.assets is not None and _is_program(places.assets / program):
        return (places.assets / program).resolve(strict=True).parent / program
    archive = next((name for name, held in PROGRAMS_OF.items() if program in held), None)
    if archive is None:
        raise UnavailableError(f"{program} is no program we know how to get")
    path = _folder_of(archive, places) / program
    if not _is_program(path):
        raise UnavailableError(f"{path.parent} lacks {program}; remove that folder")
    return path


def _is_program(path: Path) -> bool:
    return os.access(path, os.X_OK) and path.is_file()


def _folder_of(archive: str, places: Places) -> Path:
    """Return the cache's folder of an archive, filled if it was not."""
    wanted = _sum_of(archive, places.archives)
    if wanted is not None:
        folder = places.cache / f"{archive}-{wanted[:12]}"
        if not folder.is_dir():
            with _filling(folder) as empty:
                _unpack(places.archives / _file_of(archive), wanted, empty)
        return folder
    cached = sorted(places.cache.glob(f"{archive}-*"), key=lambda path: path.stat().st_mtime)
    if cached:
        return cached[-1]
    release = releases.of(archive, platform.machine())
    looked = f"{ASSETS_VARIABLE}, {places.cache} and {places.archives} have no {archive}"
    if release is None:
        raise UnavailableError(f"{looked}, and there is no official release to fetch")
    folder = places.cache / f"{archive}-{release.version}"
    try:
        with _filling(folder) as empty:
            release.fetch(empty)
    except releases.FetchError as error:
        raise UnavailableError(f"{looked}, and {error}") from None
    return folder


def _file_of(archive: str) -> str:
    return f"{archive}-linux-amd64.tar.xz"


def _sum_of(archive: str, folder: Path) -> str | None:
    """Return the sum that an archive beside the checkout must have; None if there is none."""
    if platform.machine() != "x86_64" or not (folder / _file_of(archive)).is_file():
        return None
    try:
        sums = (folder / "SHA256SUMS").read_text()
    except OSError:
        return None
    lines = [line.split() for line in sums.splitlines()]
    return next((line[0] for line in lines if line[1:] == [_file_of(archive)]), None)


@contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `folder` if all goes well: nobody sees it half full."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as empty:
            fresh = Path(empty) / "folder"
            fresh.mkdir()
            yield fresh
            if folder.exists():  # somebody else was faster
                shutil.rmtree(fresh)
            else:
                fresh.rename(folder)


def _unpack(archive: Path, wanted_sum: str, folder: Path) -> None:
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wanted_sum:
            raise UnavailableError(f"{archive} is not what SHA256SUMS beside it says; copy it anew")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
