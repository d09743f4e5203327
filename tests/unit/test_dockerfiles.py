"""The Dockerfiles: what can be said of them without building them."""

import re
import tomllib
from pathlib import Path

import pytest

from epd.vocabulary import DEFAULT_PORTS, PortName
from epd_operator.pod_security import USER_ID

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PORTS = {
    "operator": {8081, 9100},
    "gateway": {DEFAULT_PORTS[PortName.GATEWAY_HTTP]},
    "worker-cpu": {port for name, port in DEFAULT_PORTS.items() if name != PortName.GATEWAY_HTTP},
}
PORTS["worker-cuda"] = PORTS["worker-cpu"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its whole text."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, rest in pairs]


def values(path: Path, instruction: str) -> list[str]:
    return [rest for name, rest in instructions(path) if name == instruction]


def name_of(path: Path) -> str:
    return path.name.removesuffix(".Dockerfile")


def test_every_program_has_its_image() -> None:
    assert [name_of(path) for path in FILES] == sorted(PORTS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_image_is_built_in_two_stages_from_one_pinned_python(path: Path) -> None:
    assert values(path, "FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]
    (image,) = (a for a in values(path, "ARG") if a.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+", image)
    last_stage = instructions(path)[instructions(path).index(("FROM", "${PYTHON_IMAGE}")) :]
    copied = [rest for name, rest in last_stage if name == "COPY"]
    assert copied == ["--from=build /opt/epd /opt/epd", "LICENSE /opt/epd/LICENSE"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_image_runs_as_nobody_and_as_the_pods_expect(path: Path) -> None:
    assert values(path, "USER") == [f"{USER_ID}:{USER_ID}"]
    assert {int(port) for port in values(path, "EXPOSE")[0].split()} == PORTS[name_of(path)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_image_starts_a_program_of_ours(path: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entrypoint,) = values(path, "ENTRYPOINT")
    assert entrypoint.strip('[]"') in scripts


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_image_says_what_it_is(path: Path) -> None:
    labels = " ".join(values(path, "LABEL"))
    for key in ("title", "description", "version", "revision", "licenses", "base.name"):
        assert f"org.opencontainers.image.{key}=" in labels


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_an_image_copies_is_there_and_not_ignored(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copy in values(path, "COPY"):
        if copy.startswith("--from"):
            continue
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source.rstrip('/')}" in ignored
    for lock in re.findall(r"locks/[\w-]+\.txt", path.read_text()):
        assert (ROOT / lock).is_file()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_packages_of_the_system_leave_no_lists_behind(path: Path) -> None:
    for run in values(path, "RUN"):
        if "apt-get" in run:
            assert "--no-install-recommends" in run
            assert run.endswith("rm -rf /var/lib/apt/lists/*")
