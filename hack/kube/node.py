"""A real Kubernetes of one node, in namespaces of its own on one Linux machine. Needs root.

Control plane, kubelet, containerd, runc, CNI, kube-proxy and CoreDNS: pods are real containers with
real probes, Services and grace periods. NetworkPolicies are accepted and not enforced, for there is
nothing here to enforce them. All of it is one process tree below one process: it ends as a whole.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import yaml

from kube import (
    binaries,
    cgroups,
    credentials,
    host_environment,
    image,
    node_files,
    node_programs,
)
from kube.api import Api, wait_until
from kube.bed import Bed, BedError
from kube.binaries import UnavailableError
from kube.child import Child, python_module

LOOPBACK: Final = "127.0.0.1"
API_PORT: Final = 6443
INSIDE: Final = "inside.kubeconfig"
"""The administrator's kubeconfig for whoever is in the node's network."""


class Node(Bed):
    """One node with its control plane, from `start` to `stop`.

    `api` reaches its API server from this machine, by a loopback port that is carried into the
    node's network; `forward` does the same for any address in it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Plan one; see `Bed`.

        Raises:
            UnavailableError: We are not root, the programs cannot be had, or the machine cannot.
        """
        if os.geteuid() != 0:
            raise UnavailableError("a node of ours needs root")
        self._programs = binaries.find(*node_programs.PROGRAMS)
        needed = (*self._programs.values(), *host_environment.folders().values())
        hidden = next((path for path in needed if path.is_relative_to("/run")), None)
        if hidden is not None:
            raise UnavailableError(f"a node of ours has a /run of its own, which hides {hidden}")
        super().__init__(folder)
        self._forwards: dict[tuple[str, int], int] = {}

    def start(self) -> None:
        """Start everything; return once the node is Ready and names are answered."""
        folder = self.folder
        for name in ("etc/cni", "etcd", "containerd", "kubelet", "cni", "sysctl", "images"):
            (folder / name).mkdir(parents=True)
        tokens = self._write_credentials()
        self._write_configuration()
        self._write_images()
        made = cgroups.create(f"epd-node-{os.getpid()}-{folder.name}")
        for cgroup in made:
            self.janitor.remove("cgroup", cgroup.folder)
        plan = {
            "node": node_files.NODE,
            "cgroups": [{**asdict(each), "folder": str(each.folder)} for each in made],
            "network": node_programs.network_commands(self._programs["busybox"]),
            "path": node_programs.search_path(self._programs),
            "run": node_programs.plan(self._programs),
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        self.run("node", *python_module("kube.node_init", str(folder)))
        self.wait("node", (folder / "node.pid").is_file)
        port = self.forward(node_files.NODE_ADDRESS, API_PORT)
        ca = self.pki("ca.crt").read_bytes()
        url = f"https://{LOOPBACK}:{port}"
        self.api = Api(url, ca, tokens["admin"], folder, self._programs["kubectl"])
        self.wait("node", self.api.is_ready)
        (folder / node_programs.API_READY).touch()
        self._wait_for_node()

    def forward(self, host: str, port: int) -> int:
        """Return a port of this machine's loopback that leads to an address in the node's network.

        The same for the same address; it is there until the node ends.
        """
        if (host, port) not in self._forwards:
            with socket.create_server((LOOPBACK, 0)) as listening:
                listening.set_inheritable(True)
                number = listening.fileno()
                arguments = (str(number), str(self.process_id), host, str(port))
                name = f"forward-{host}-{port}"
                self.children[name] = Child(
                    python_module("kube.forward", *arguments),
                    self.folder / "log" / f"{name}.log",
                    keep_open=(number,),
                )
                self._forwards[host, port] = int(listening.getsockname()[1])
        return self._forwards[host, port]

    @property
    def process_id(self) -> int:
        """Process 1 of the node, as the machine numbers it."""
        return int((self.folder / "node.pid").read_text())

    def process_of(self, program: str) -> int | None:
        """Return the process of a program (`kubelet`, `kube-apiserver`, …); None if it is down."""
        children = Path(f"/proc/{self.process_id}/task/{self.process_id}/children").read_text()
        for process_id in children.split():
            command = Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
            if Path(command[0].decode()).name == program:
                return int(process_id)
        return None

    def crash(self, program: str) -> None:
        """End a program without a warning; it is started again after a second."""
        process_id = self.process_of(program)
        if process_id is None:
            raise BedError(f"{program} is not running")
        os.kill(process_id, signal.SIGKILL)
        wait_until(lambda: self.process_of(program) != process_id, f"{program} did not end")

    @contextmanager
    def without(self, program: str) -> Iterator[None]:
        """Keep a program down for as long as the block lasts."""
        hold = self.folder / "hold" / program
        hold.touch()
        try:
            self.crash(program)
            yield
        finally:
            hold.unlink()

    @contextmanager
    def frozen(self, program: str) -> Iterator[None]:
        """Stop a program in the middle of its work for as long as the block lasts."""
        process_id = self.process_of(program)
        if process_id is None:
            raise BedError(f"{program} is not running")
        os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process_id, signal.SIGCONT)

    def load_image(self, name: str, files: Mapping[str, Path | str]) -> None:
        """Give the node an image with nothing in it but `files`, as if it had been pulled.

        Args:
            name: `HOST/NAME:TAG`; containers and image volumes say it with `IfNotPresent`.
            files: What is at each path: text, or a file or folder to copy.
        """
        archive = self.folder / "images" / f"{name.replace('/', '_')}.tar"
        image.write_image(archive, name, files)
        inside = f"{node_files.HOME}/images/{archive.name}"
        self.enter("ctr", "-n", "k8s.io", "images", "import", inside)
        archive.unlink()

    def enter(self, program: str, *arguments: str) -> None:
        """Run one of the node's programs inside it.

        Raises:
            BedError: It ended badly; the message is its last words.
        """
        command = (str(self._programs[program]), *arguments)
        log = self.folder / "log" / f"{program}.log"
        child = Child(python_module("kube.enter", "--all", str(self.process_id), *command), log)
        if child.wait() != 0:
            raise BedError(child.last_words())

    def _write_credentials(self) -> dict[str, str]:
        """Write keys, certificates, tokens and kubeconfigs; return the tokens by their files."""
        authority = credentials.Authority.create(self.folder / "pki", "ca")
        service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
        addresses = (node_files.NODE_ADDRESS, LOOPBACK, node_files.API_SERVICE_ADDRESS)
        names = ("localhost", *service, f"{service[-1]}.{node_files.DOMAIN}")
        authority.issue("apiserver", "kube-apiserver", hosts=(*addresses, *names))
        authority.issue("kubelet", node_files.NODE, hosts=(node_files.NODE_ADDRESS,))
        authority.issue("api-to-kubelet", "api-to-kubelet", "system:masters")
        credentials.write_key(self.pki("accounts.key"))
        front = credentials.Authority.create(self.folder / "pki", "front-ca")
        front.issue("front", "front-proxy")
        file = credentials.TokenFile(self.pki("tokens.csv"))
        users = {
            "admin": credentials.ADMIN,
            "kube-controller-manager": credentials.CONTROLLER_MANAGER,
            "kube-scheduler": credentials.SCHEDULER,
            "kubelet": (f"system:node:{node_files.NODE}", "system:nodes"),
            "kube-proxy": ("system:kube-proxy", ""),
        }
        tokens = {name: file.token_for(user) for name, user in users.items()}
        ca = self.pki("ca.crt").read_bytes()
        url = f"https://{node_files.NODE_ADDRESS}:{API_PORT}"
        for name, token in tokens.items():
            config = credentials.kubeconfig(url, ca, token)
            # The administrator's own file is for use on the machine.
            file_name = INSIDE if name == "admin" else f"{name}.kubeconfig"
            credentials.write_kubeconfig(self.folder / file_name, config)
        return tokens

    def _write_configuration(self) -> None:
        etc = self.folder / "etc"
        programs = self._programs["runc"].parent
        (etc / "resolv.conf").touch()
        (etc / "containerd.toml").write_text(node_files.containerd(programs))
        (etc / "cni" / "10-pods.conflist").write_text(json.dumps(node_files.pod_network()))
        (etc / "kubelet.yaml").write_text(yaml.safe_dump(node_files.kubelet()))
        (etc / "kube-proxy.yaml").write_text(yaml.safe_dump(node_files.proxy()))

    def _write_images(self) -> None:
        folder, busybox = self.folder / "images", self._programs["busybox"]
        image.write_busybox_image(folder / "shell.tar", node_files.SHELL_IMAGE, busybox)
        for_ever: Sequence[str] = ("/bin/sleep", "2147483647")
        image.write_busybox_image(folder / "pause.tar", node_files.PAUSE_IMAGE, busybox, for_ever)
        files: dict[str, Path | str] = {"coredns": self._programs["coredns"]}
        image.write_image(
            folder / "coredns.tar", node_files.DNS_IMAGE, files, command=("/coredns",)
        )

    def _wait_for_node(self) -> None:
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.wait("node", lambda: self.api.client.get(account).is_success)
        self.api.kubectl("apply", "-f", "-", manifest=node_files.dns())
        node = f"/api/v1/nodes/{node_files.NODE}"
        self.wait("node", lambda: _has(self.api.client.get(node), "Ready"))
        deployment = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"
        self.wait("node", lambda: _has(self.api.client.get(deployment), "Available"))


def _has(answer: Any, condition: str) -> bool:
    """Tell whether an object that was asked for exists and has a condition."""
    found = answer.json().get("status", {}).get("conditions", []) if answer.is_success else []
    return any(each["type"] == condition and each["status"] == "True" for each in found)
