"""The house: rooms that must not become packages, the size check, one distribution."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "epd": "core",
    "epd_operator": "operator",
    "epd_gateway": "gateway",
    "epd_worker": "worker",
    "epd_sim": "sim",
    "epd_cli": "cli",
}


@pytest.fixture(scope="module")
def check_sizes() -> ModuleType:
    """Load hack/check_sizes.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("check_sizes", ROOT / "hack" / "check_sizes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("room", PACKAGES.values())
@pytest.mark.parametrize("name", ["__init__.py", "conftest.py"])
def test_a_room_is_no_package_and_has_no_tests(room: str, name: str) -> None:
    assert not (ROOT / room / name).exists()


@pytest.mark.parametrize("flags", [[], ["-S"]], ids=["with site", "without site"])
def test_pythons_own_operator_is_found_from_the_repository_root(flags: list[str]) -> None:
    code = "import collections, operator; print(operator.__file__, operator.itemgetter(0)('x'))"
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not done.stdout.startswith(str(ROOT / "operator"))
    assert done.stdout.endswith("operator.py x\n")


def test_the_installation_puts_the_rooms_on_the_path_and_never_the_root(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.path, sep='\\n')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    on_path = set(done.stdout.splitlines())
    assert str(ROOT) not in on_path
    assert {str(ROOT / room) for room in PACKAGES.values()} <= on_path


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_found_in_its_room(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / PACKAGES[package] / package / "__init__.py")


def test_tests_are_not_packages_and_their_file_names_are_unique() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_vllm_finds_our_plugin() -> None:
    [plugin] = entry_points(group="vllm.general_plugins", name="epd")
    assert plugin.value == "epd_worker.engine.vllm_plugin:register"


def test_the_cpu_lock_admits_no_cuda_build() -> None:
    pins = (ROOT / "locks" / "vllm-cpu.txt").read_text()
    assert re.search(r"^torch==\S+\+cpu$", pins, re.MULTILINE)
    assert not re.search(r"^(nvidia-|cuda-|triton|vllm==)", pins, re.MULTILINE)


@pytest.mark.parametrize("engine", ["vllm-cpu", "vllm-cuda", "bench-race"])
def test_locks_that_are_installed_together_agree(engine: str) -> None:
    base, other = pins("base"), pins(engine)
    shared = base.keys() & other.keys()
    assert shared
    assert {name: other[name] for name in shared} == {name: base[name] for name in shared}


def pins(part: str) -> dict[str, str]:
    text = (ROOT / "locks" / f"{part}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def test_the_engine_pin_of_the_package_is_the_one_of_the_locks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for part, distribution in [("vllm-cpu", "vllm-cpu"), ("vllm-cuda", "vllm")]:
        wanted = f"{distribution}=={pins(part)[distribution]}"
        assert wanted in project["optional-dependencies"][part]


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("core/epd/long.py", "x = 1\n" * 401, "core/epd/long.py:1: 401 lines"),
        ("cli/epd_cli/wide.py", f"x = '{'y' * 96}'\n", "cli/epd_cli/wide.py:1: 102 characters"),
        ("sim/epd_sim/utils.py", "", "sim/epd_sim/utils.py:1: `utils` says nothing"),
        ("tests/unit/deep.py", "def f():\n" + " x = 1\n" * 70, "deep.py:1: f() has 71 lines"),
        ("hack/deep.py", "async def f():\n" + " x = 1\n" * 70, "deep.py:1: f() has 71 lines"),
        ("hack/broken.py", "def f(:\n", "hack/broken.py:1: invalid syntax"),
        ("operator/__init__.py", "", "operator/__init__.py:1: breaks Python's own operator"),
        ("operator/conftest.py", "", "operator/conftest.py:1: breaks Python's own operator"),
    ],
)
def test_the_size_check_finds_the_fault(
    check_sizes: ModuleType, tmp_path: Path, path: str, text: str, fault: str
) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    [found] = check_sizes.tree_faults(tmp_path)
    assert fault in found


def test_the_size_check_allows_exactly_the_budget(check_sizes: ModuleType, tmp_path: Path) -> None:
    room = tmp_path / "core" / "epd"
    room.mkdir(parents=True)
    (room / "full.py").write_text("def f():\n" + " x = 1\n" * 69 + "x = 1\n" * 330)
    (room / "worker_pb2.py").write_text("x = 1\n" * 5000)
    assert list(check_sizes.tree_faults(tmp_path)) == []
