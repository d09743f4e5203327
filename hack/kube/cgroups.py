"""The cgroup folders of a node: one below our own in each hierarchy, the roots the node sees."""

import os
from dataclasses import dataclass
from pathlib import Path

from kube.binaries import UnavailableError


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One hierarchy, and our folder in it.

    Attributes:
        folder: The folder, as the machine sees it.
        name: Name of its mount below /sys/fs/cgroup.
        kind: `cgroup` (version 1) or `cgroup2`.
        options: Options of its mount.
    """

    folder: Path
    name: str
    kind: str
    options: str


def create(name: str) -> list[Cgroup]:
    """Make a folder called `name` in every hierarchy that this process is in.

    Raises:
        UnavailableError: The machine has cgroup version 2 alone, or will not let us.
    """
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = next((each[1] for each in mounts if _is_mount_of(controllers, each)), None)
        if mount is None:
            continue
        folder = Path(f"{mount}{path}") / name
        kind = "cgroup" if controllers else "cgroup2"
        options = f"none,{controllers}" if controllers.startswith("name=") else controllers
        made.append(Cgroup(folder, controllers.removeprefix("name=") or "unified", kind, options))
    if all(cgroup.kind == "cgroup2" for cgroup in made):
        raise UnavailableError("a node of ours needs cgroup version 1, which is not mounted here")
    for cgroup in made:
        try:
            cgroup.folder.mkdir()
        except OSError as error:
            raise UnavailableError(f"{cgroup.folder}: {os.strerror(error.errno or 0)}") from None
        if cgroup.name == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                (cgroup.folder / file).write_text((cgroup.folder.parent / file).read_text())
    return made


def _is_mount_of(controllers: str, mount: list[str]) -> bool:
    """Tell whether a line of /proc/mounts is where a hierarchy can be seen."""
    _, _, kind, options, *_ = mount
    if not controllers:
        return kind == "cgroup2"
    return kind == "cgroup" and set(controllers.split(",")) <= set(options.split(","))
