"""What every bed is: a folder, processes, and the promise that neither outlives its owner."""

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from kube.api import Api, wait_until
from kube.child import Child
from kube.janitor import Janitor


class BedError(Exception):
    """A bed could not be started; the message says which part, and how it ended."""


class Bed(ABC):
    """A Kubernetes from `start` to `stop`; as a context manager it does both.

    Whatever happens to this process, the bed's processes end with it and its files are removed.
    """

    api: Api
    """The API server, once the bed has started."""

    def __init__(self, folder: Path | None = None) -> None:
        """Plan a bed; its files lie in a temporary folder, or in `folder`, which is made."""
        self.janitor = Janitor()
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="epd-kube-"))
        else:
            folder.mkdir(parents=True)
        self.folder = folder
        self.janitor.remove("tree", folder)
        for name in ("pki", "log"):
            (folder / name).mkdir(mode=0o700)
        self.children: dict[str, Child] = {}

    @abstractmethod
    def start(self) -> None:
        """Start everything; return once it can be used.

        Raises:
            BedError: A part ended, or did not become ready in time.
        """

    def stop(self) -> None:
        """End everything that runs, and remove its files."""
        if hasattr(self, "api"):
            self.api.client.close()
        for child in reversed(self.children.values()):
            child.kill()  # nothing of what they hold is kept
        self.children.clear()
        self.janitor.finish()

    def __enter__(self) -> Self:
        """Start it; if it does not start, tidy up."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def keep_logs(self, path: Path) -> None:
        """Copy the folder of logs to `path`, for a look after the end."""
        with suppress(OSError):
            shutil.copytree(self.folder / "log", path)

    def pki(self, name: str) -> Path:
        """Return where a key, certificate or token file lies."""
        return self.folder / "pki" / name

    def run(self, name: str, *command: str | Path) -> None:
        """Start a process of the bed under a name, which is also that of its log."""
        self.children[name] = Child(command, self.folder / "log" / f"{name}.log")

    def wait(self, name: str, holds: Callable[[], object]) -> None:
        """Return once `holds()` is true, which the child of that name must bring about.

        Raises:
            BedError: A child ended, or it took too long.
        """

        def ended() -> list[Child]:
            return [child for child in self.children.values() if not child.is_running]

        try:
            wait_until(lambda: ended() or holds(), f"{name} is not ready")
        except TimeoutError as error:
            raise BedError(f"{error}: {self.children[name].last_words()}") from None
        for child in ended():
            raise BedError(child.last_words())
