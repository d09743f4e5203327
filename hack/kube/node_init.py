"""Process 1 of a node: makes the node's world, starts its programs, and keeps them running.

Runs as `python -m kube.node_init FOLDER`, standard library only. Everything it mounts, and every
network it makes, lives in its own namespaces and goes with it. `FOLDER/plan.json` says what to run;
`FOLDER/hold/NAME` keeps a program from being started (again) for as long as it exists.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from kube import namespaces

RUN: Final = Path("/run")
HOME: Final = RUN / "node"
"""Where the node sees its folder: short, so that sockets in it have names that fit."""

RESTART_AFTER_S: Final = 1.0
INTERVAL_S: Final = 0.02

# kubelet writes these, and they are the whole machine's: it is given files of its own to write.
SYSCTLS: Final = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def main(folder: Path) -> int:
    """Join the node's cgroups, leave all namespaces, and become the parent of process 1."""
    plan = json.loads((folder / "plan.json").read_text())
    for cgroup in plan["cgroups"]:
        Path(cgroup["folder"], "cgroup.procs").write_text(str(os.getpid()))
    namespaces.unshare(namespaces.OF_A_NODE)
    child = os.fork()
    if child == 0:
        namespaces.end_with_parent()
        os.environ["PATH"] = plan["path"]
        make_world(folder, plan)
        Supervisor(plan).run()
    (folder / "node.pid.new").write_text(str(child))
    (folder / "node.pid.new").rename(folder / "node.pid")
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def make_world(folder: Path, plan: dict[str, Any]) -> None:
    """Mount what the node sees, and make its network."""
    namespaces.mount("none", "/", flags=namespaces.MOUNT_PRIVATE | namespaces.MOUNT_RECURSIVE)
    namespaces.mount("proc", "/proc", "proc")
    namespaces.mount("tmpfs", RUN, "tmpfs", data="mode=755")
    namespaces.mount(str(folder), HOME, flags=namespaces.MOUNT_BIND)
    for name in ("lock", "netns", "var/upper", "var/work"):
        (RUN / name).mkdir(parents=True)
    # kubelet wants what it mounts to reach the containers.
    namespaces.mount("none", "/", flags=namespaces.MOUNT_SHARED | namespaces.MOUNT_RECURSIVE)
    # /var/lib/kubelet, /var/lib/cni and /var/log are written whatever the options say.
    layers = "lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work"
    namespaces.mount("overlay", "/var", "overlay", data=layers)
    namespaces.mount("sysfs", "/sys", "sysfs")
    namespaces.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", data="mode=755")
    for cgroup in plan["cgroups"]:
        options = cgroup["options"]
        namespaces.mount("cgroup", f"/sys/fs/cgroup/{cgroup['name']}", cgroup["kind"], data=options)
    for name, value in SYSCTLS.items():
        file = HOME / "sysctl" / name.replace("/", ".")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{value}\n")
        namespaces.mount(str(file), f"/proc/sys/{name}", flags=namespaces.MOUNT_BIND)
    socket.sethostname(plan["node"])
    for command in plan["network"]:
        subprocess.run(command, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    # Else answers between pods of one bridge keep the address of the pod, not of the Service.
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")


class Supervisor:
    """Starts each program once its files are there, and again whenever it has ended."""

    def __init__(self, plan: dict[str, Any]) -> None:
        """Take the programs of a plan: name, command, the files to wait for, whether it ends."""
        self._programs: dict[str, dict[str, Any]] = {each["name"]: each for each in plan["run"]}
        self._due_s = dict.fromkeys(self._programs, 0.0)
        self._running: dict[int, str] = {}

    def run(self) -> None:
        """Go on for ever."""
        os.chdir(HOME)
        (HOME / "hold").mkdir(exist_ok=True)
        # Sent by nobody: the node ends by being killed.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            for name in [name for name in self._due_s if self._may_start(name)]:
                self._start(name)
            while self._running:
                process_id, status = os.waitpid(-1, os.WNOHANG)
                if process_id == 0:
                    break
                self._note_end(process_id, status)
            time.sleep(INTERVAL_S)

    def _may_start(self, name: str) -> bool:
        waits_for = [Path(path) for path in self._programs[name]["after"]]
        return (
            time.monotonic() >= self._due_s[name]
            and not (HOME / "hold" / name).exists()
            and all(path.exists() for path in waits_for)
        )

    def _start(self, name: str) -> None:
        del self._due_s[name]
        with (HOME / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self._programs[name]["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running[process.pid] = name

    def _note_end(self, process_id: int, status: int) -> None:
        name = self._running.pop(process_id, None)
        if name is None:  # an orphan of a container
            return
        code = os.waitstatus_to_exitcode(status)
        if self._programs[name]["ends"] and code == 0:
            (HOME / "done").mkdir(exist_ok=True)
            (HOME / "done" / name).touch()
            return
        with (HOME / "log" / "ended").open("a") as file:
            file.write(f"{name} {code}\n")
        self._due_s[name] = time.monotonic() + RESTART_AFTER_S


if __name__ == "__main__":
    # What our interpreter was told is nothing to the programs of the node.
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main(Path(sys.argv[1])))
