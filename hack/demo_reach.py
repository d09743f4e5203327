"""How the demo reaches the cluster it runs on: a node of its own, or the one KUBECONFIG names."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlencode

from kube import binaries
from kube.api import KubectlError
from kube.node import Node
from kube.node_files import SHELL_IMAGE

from epd_cli.failures import CommandError

_FORWARDING: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class Reach(Protocol):
    """One cluster, as its administrator.

    Attributes:
        helm: `helm` as it is called for this cluster: the program and its options.
        kubeconfig: What KUBECONFIG is for it.
        has_our_files: Its nodes are this machine: pods can have this checkout in them, from an
            image with nothing but a shell.
    """

    helm: tuple[str, ...]
    kubeconfig: str
    has_our_files: bool

    def kubectl(self, *arguments: str, manifest: object = None) -> str:
        """Run kubectl; return what it prints.

        Raises:
            KubectlError: It ended badly.
        """

    def get(self, path: str, **query: str) -> Any:
        """Ask the API server for a path."""

    def service_port(self, namespace: str, name: str, port: int) -> int:
        """Return a port of this machine's loopback that leads to a port of a Service."""


class OwnNode:
    """A node of ours that is up."""

    def __init__(self, node: Node) -> None:
        """Reach `node`."""
        self._node = node
        self.kubeconfig = str(node.api.kubeconfig)
        helm = str(binaries.find("helm")["helm"])
        self.helm: tuple[str, ...] = (helm, f"--kubeconfig={self.kubeconfig}")
        self.has_our_files = True

    def kubectl(self, *arguments: str, manifest: object = None) -> str:
        """See `Reach`."""
        return self._node.api.kubectl(*arguments, manifest=manifest)

    def get(self, path: str, **query: str) -> Any:
        """See `Reach`."""
        return self._node.api.call("GET", path, params=query)

    def service_port(self, namespace: str, name: str, port: int) -> int:
        """See `Reach`."""
        service = self.get(f"/api/v1/namespaces/{namespace}/services/{name}")
        return self._node.forward(service["spec"]["clusterIP"], port)


class UsersCluster:
    """The cluster of KUBECONFIG; a context manager, for it ends what it forwards."""

    def __init__(self) -> None:
        """Look whether the cluster can be reached.

        Raises:
            CommandError: KUBECONFIG is not set, or names a cluster that does not answer.
        """
        self.kubeconfig = os.environ.get("KUBECONFIG", "")
        if not self.kubeconfig:
            raise CommandError("CLUSTER=mine needs KUBECONFIG: `export KUBECONFIG=FILE` first")
        self._kubectl, helm = (str(path) for path in binaries.find("kubectl", "helm").values())
        self.helm: tuple[str, ...] = (helm,)
        self._open = ExitStack()
        try:
            nodes = self.get("/api/v1/nodes")["items"]
        except KubectlError as error:
            said = str(error).splitlines()[-1]
            raise CommandError(f"the cluster of KUBECONFIG={self.kubeconfig}: {said}") from None
        images = {
            name
            for node in nodes
            for image in node["status"].get("images") or ()
            for name in image.get("names") or ()
        }
        self.has_our_files = SHELL_IMAGE in images

    def __enter__(self) -> Self:
        """Do nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what is forwarded."""
        self._open.close()

    def kubectl(self, *arguments: str, manifest: object = None) -> str:
        """See `Reach`."""
        text = None if manifest is None else json.dumps(manifest)
        command = [self._kubectl, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def get(self, path: str, **query: str) -> Any:
        """See `Reach`."""
        asked = f"{path}?{urlencode(query)}" if query else path
        text = self.kubectl("get", "--raw", asked)
        return json.loads(text)

    def service_port(self, namespace: str, name: str, port: int) -> int:
        """See `Reach`; the port leads to one pod of the Service, as `kubectl port-forward` does."""
        arguments = ("port-forward", f"service/{name}", f":{port}", "-n", namespace)
        command = [self._kubectl, *arguments, "--address=127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._open.callback(_end(process))
        line = process.stdout.readline() if process.stdout else ""
        if found := _FORWARDING.match(line):
            return int(found[1])
        raise CommandError(f"kubectl port-forward service/{name}: it ended")


def _end(process: "subprocess.Popen[str]") -> Callable[[], None]:
    def end() -> None:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()

    return end


def program(name: str) -> Path:
    """Return where kubectl or helm is, to tell a user."""
    return binaries.find(name)[name]
