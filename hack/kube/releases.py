"""The official releases of what the tests run, fetched with the sums published beside them."""

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

import httpx

KUBERNETES: Final = "v1.36.3"
ETCD: Final = "v3.6.16"
HELM: Final = "v4.3.1"

KUBERNETES_URL: Final = "https://dl.k8s.io/release"
ETCD_URL: Final = "https://github.com/etcd-io/etcd/releases/download"
HELM_URL: Final = "https://get.helm.sh"

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 60.0


class FetchError(Exception):
    """A download did not succeed; the message is part of a sentence."""


@dataclass(frozen=True, slots=True)
class Download:
    """One file: where it is, where its sum is, and which programs it holds.

    A file that is no archive is the one program itself.
    """

    url: str
    sums_url: str
    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The files that together replace one of our archives."""

    version: str
    downloads: tuple[Download, ...]

    def fetch(self, folder: Path) -> None:
        """Put all programs into `folder`.

        Raises:
            FetchError: A server cannot be reached, or a file is not what its sum says.
        """
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with httpx.Client(follow_redirects=True, timeout=timeout) as client:
            for download in self.downloads:
                data = _checked(client, download)
                for program, content in _programs_in(download, data).items():
                    path = folder / program
                    path.write_bytes(content)
                    path.chmod(0o755)


def of(archive: str, machine: str) -> Release | None:
    """Return the release of an archive for a machine as `platform` names it, if there is one."""
    cpu = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine)
    return _releases(cpu).get(archive) if cpu else None


def _releases(cpu: str) -> Mapping[str, Release]:
    programs = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    node_programs = ("kubelet", "kube-proxy")
    folder = f"{KUBERNETES_URL}/{KUBERNETES}/bin/linux/{cpu}"
    kubernetes = tuple(
        Download(f"{folder}/{program}", f"{folder}/{program}.sha256", (program,))
        for program in (*programs, *node_programs)
    )
    etcd = Download(
        f"{ETCD_URL}/{ETCD}/etcd-{ETCD}-linux-{cpu}.tar.gz",
        f"{ETCD_URL}/{ETCD}/SHA256SUMS",
        ("etcd",),
    )
    helm = f"{HELM_URL}/helm-{HELM}-linux-{cpu}.tar.gz"
    return MappingProxyType(
        {
            "kubernetes": Release(KUBERNETES, (*kubernetes, etcd)),
            "helm": Release(HELM, (Download(helm, f"{helm}.sha256sum", ("helm",)),)),
        }
    )


def _checked(client: httpx.Client, download: Download) -> bytes:
    try:
        sums = client.get(download.sums_url).raise_for_status().text
        data = client.get(download.url).raise_for_status().content
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise FetchError(f"{error.request.url} answers {status}") from None
    except httpx.HTTPError as error:
        host = httpx.URL(download.url).host
        raise FetchError(f"{host} cannot be reached ({type(error).__name__})") from None
    if hashlib.sha256(data).hexdigest() != _sum_in(sums, PurePosixPath(download.url).name):
        raise FetchError(f"{download.url} is not what its published sum says")
    return data


def _sum_in(text: str, name: str) -> str | None:
    """Find a file's sum in what `sha256sum` writes, or take the only one there is."""
    lines = [line.split() for line in text.splitlines() if re.match(r"[0-9a-f]{64}\b", line)]
    if len(lines) == 1 and len(lines[0]) == 1:
        return lines[0][0]
    return next((line[0] for line in lines if line[-1].lstrip("*") == name), None)


def _programs_in(download: Download, data: bytes) -> Mapping[str, bytes]:
    if not download.url.endswith(".tar.gz"):
        return {download.programs[0]: data}
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            program = PurePosixPath(member.name).name
            content = tar.extractfile(member) if program in download.programs else None
            if content is not None:
                found[program] = content.read()
    missing = set(download.programs) - set(found)
    if missing:
        raise FetchError(f"{download.url} lacks {', '.join(sorted(missing))}")
    return found
