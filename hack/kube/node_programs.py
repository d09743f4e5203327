"""The programs of a node and how each is called. Paths are as the node sees them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kube.control_plane import ISSUER
from kube.node_files import (
    CONTAINERD_SOCKET,
    HOME,
    NODE,
    NODE_ADDRESS,
    SERVICE_RANGE,
)

PROGRAMS: Final = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
    *("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc"),
    *("bridge", "loopback", "host-local", "coredns", "nft", "busybox"),
)

API_READY: Final = "api-ready"
"""File in the node's folder: what talks to the API server may start."""

ETCD_URL: Final = "http://127.0.0.1:2379"


def network_commands(busybox: Path) -> list[list[str]]:
    """Return what makes the node's network: its address on a bridge without ports, no way out."""
    ip = [str(busybox), "ip"]
    return [
        [*ip, "link", "set", "lo", "up"],
        [str(busybox), "brctl", "addbr", NODE],
        [*ip, "addr", "add", f"{NODE_ADDRESS}/24", "dev", NODE],
        [*ip, "link", "set", NODE, "up"],
        [*ip, "route", "add", "default", "dev", NODE],
    ]


def search_path(programs: Mapping[str, Path]) -> str:
    """Return where the node's programs find one another: runc, nft, the runtime's shim."""
    own = {str(programs[name].parent) for name in ("runc", "kubelet")}
    return ":".join([*sorted(own), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


def plan(programs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return all programs in the order of their start, each with the files it waits for."""
    flags = {
        "etcd": _etcd(),
        "kube-apiserver": _api_server(),
        "kube-controller-manager": _controller_manager(),
        "kube-scheduler": _scheduler(),
        "kubelet": _kubelet(),
        "kube-proxy": [f"--config={HOME}/etc/kube-proxy.yaml"],
        "containerd": [f"--config={HOME}/etc/containerd.toml"],
    }
    after = {
        "kube-controller-manager": [f"{HOME}/{API_READY}"],
        "kube-scheduler": [f"{HOME}/{API_READY}"],
        "kubelet": [f"{HOME}/{API_READY}", *(f"{HOME}/done/{name}" for name in _IMAGES)],
        "kube-proxy": [f"{HOME}/{API_READY}"],
    }
    run = [
        {
            "name": name,
            "command": [str(programs[name]), *arguments],
            "after": after.get(name, []),
            "ends": False,
        }
        for name, arguments in flags.items()
    ]
    loads = [
        {
            "name": name,
            "command": [
                *(str(programs["ctr"]), f"--address={CONTAINERD_SOCKET}", "-n", "k8s.io"),
                *("images", "import", f"{HOME}/images/{name}.tar"),
            ],
            "after": [CONTAINERD_SOCKET],
            "ends": True,
        }
        for name in _IMAGES
    ]
    return [*run, *loads]


_IMAGES: Final = ("pause", "shell", "coredns")


def _etcd() -> list[str]:
    return [
        f"--data-dir={HOME}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--log-level=warn",
    ]


def _api_server() -> list[str]:
    pki = f"{HOME}/pki"
    return [
        f"--etcd-servers={ETCD_URL}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_ADDRESS}",
        "--secure-port=6443",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--token-auth-file={pki}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--service-account-issuer={ISSUER}",
        f"--api-audiences={ISSUER}",
        f"--service-account-signing-key-file={pki}/accounts.key",
        f"--service-account-key-file={pki}/accounts.pub",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--kubelet-client-certificate={pki}/api-to-kubelet.crt",
        f"--kubelet-client-key={pki}/api-to-kubelet.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki}/front-ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front.crt",
        f"--proxy-client-key-file={pki}/front.key",
    ]


def _controller_manager() -> list[str]:
    return [
        *_own_account("kube-controller-manager"),
        f"--service-account-private-key-file={HOME}/pki/accounts.key",
        f"--root-ca-file={HOME}/pki/ca.crt",
        "--use-service-account-credentials=true",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def _scheduler() -> list[str]:
    return _own_account("kube-scheduler")


def _own_account(program: str) -> list[str]:
    file = f"{HOME}/{program}.kubeconfig"
    return [
        *(f"--{use}={file}" for use in ("kubeconfig", "authentication-kubeconfig")),
        f"--authorization-kubeconfig={file}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def _kubelet() -> list[str]:
    return [
        f"--config={HOME}/etc/kubelet.yaml",
        f"--kubeconfig={HOME}/kubelet.kubeconfig",
        f"--root-dir={HOME}/kubelet",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
    ]
