"""Where the programs of a real Kubernetes are looked for, and what is said where there are none."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from kube import binaries, releases
from kube.binaries import Places, UnavailableError

MACHINE = "x86_64"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Return places that hold nothing, on the machine that the archives are for."""
    monkeypatch.setattr("platform.machine", lambda: MACHINE)
    return Places(tmp_path / "assets", tmp_path / "cache", tmp_path / "archives")


def program(path: Path, says: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def tar_of(compression: str, **programs: str) -> bytes:
    """Return an archive of programs."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as tar:
        for name, content in programs.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return data.getvalue()


def archive(places: Places, name: str, content: bytes, listed_sum: str | None = None) -> str:
    """Put an archive and its sum where archives lie; return the sum of what it really holds."""
    places.archives.mkdir(exist_ok=True)
    file = f"{name}-linux-amd64.tar.xz"
    (places.archives / file).write_bytes(content)
    real_sum = hashlib.sha256(content).hexdigest()
    (places.archives / "SHA256SUMS").write_text(f"{listed_sum or real_sum}  {file}\n")
    return real_sum


def test_the_folder_of_envtest_goes_before_everything_else(places: Places) -> None:
    assert places.assets is not None
    theirs = program(places.assets / "helm", "theirs")
    archive(places, "helm", tar_of("xz", helm="ours"))
    assert binaries.find_in(places, "helm") == {"helm": theirs}


def test_what_the_folder_of_envtest_lacks_is_looked_for_elsewhere(places: Places) -> None:
    assert places.assets is not None
    program(places.assets / "etcd", "theirs")
    archive(places, "helm", tar_of("xz", helm="ours"))
    assert binaries.find_in(places, "helm")["helm"].parent.parent == places.cache


def test_an_archive_is_unpacked_once_and_anew_when_it_changes(places: Places) -> None:
    first_sum = archive(places, "helm", tar_of("xz", helm="one"))
    first = binaries.find_in(places, "helm")["helm"]
    assert first.parent.name == f"helm-{first_sum[:12]}"
    first.write_text("two")
    assert binaries.find_in(places, "helm")["helm"].read_text() == "two"
    archive(places, "helm", tar_of("xz", helm="three"))
    assert binaries.find_in(places, "helm")["helm"].read_text() == "three"


def test_a_damaged_archive_is_refused_and_nothing_of_it_is_kept(places: Places) -> None:
    archive(places, "helm", tar_of("xz", helm="one"), listed_sum="0" * 64)
    with pytest.raises(UnavailableError, match="is not what SHA256SUMS beside it says"):
        binaries.find_in(places, "helm")
    assert list(places.cache.glob("helm-*")) == []


def test_the_cache_serves_where_the_archives_are_gone(places: Places) -> None:
    cached = program(places.cache / "kwok-0123456789ab" / "kwok", "cached")
    assert binaries.find_in(places, "kwok")["kwok"] == cached


def test_a_program_without_archive_or_release_is_named_with_the_places(places: Places) -> None:
    with pytest.raises(UnavailableError, match="no official release") as caught:
        binaries.find_in(places, "kwok")
    message = str(caught.value)
    assert "\n" not in message
    assert str(places.cache) in message
    assert str(places.archives) in message


Answer = Callable[[httpx.Request], httpx.Response]


def serve(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """Have downloads answered by a function."""
    client = httpx.Client
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **kw: client(**{**kw, "transport": transport}))


def test_a_release_is_checked_and_kept(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tar_of("gz", **{"linux-amd64/helm": "released", "linux-amd64/README": "no"})
    name = f"helm-{releases.HELM}-linux-amd64.tar.gz"
    sums = f"{'1' * 64}  other.tar.gz\n{hashlib.sha256(data).hexdigest()}  {name}\n"

    def answer(request: httpx.Request) -> httpx.Response:
        is_sum = request.url.path.endswith(".sha256sum")
        return httpx.Response(200, content=sums.encode() if is_sum else data)

    serve(monkeypatch, answer)
    path = binaries.find_in(places, "helm")["helm"]
    assert path.read_text() == "released"
    assert path.parent.name == f"helm-{releases.HELM}"
    serve(monkeypatch, lambda _: httpx.Response(500))
    assert binaries.find_in(places, "helm")["helm"] == path


def test_a_release_that_is_not_what_its_sum_says_is_refused(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, lambda _: httpx.Response(200, text="2" * 64))
    with pytest.raises(UnavailableError, match="not what its published sum says"):
        binaries.find_in(places, "kubectl")
    assert list(places.cache.glob("kubernetes-*")) == []


def test_without_a_network_one_line_says_so(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    serve(monkeypatch, answer)
    with pytest.raises(UnavailableError, match=r"dl\.k8s\.io cannot be reached") as caught:
        binaries.find_in(places, "kubectl")
    assert "\n" not in str(caught.value)
