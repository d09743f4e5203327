"""What the programs of a node are configured with. Paths are as the node sees them."""

from pathlib import Path
from typing import Any, Final

import yaml

NODE: Final = "node0"
NODE_ADDRESS: Final = "10.250.0.1"
POD_RANGE: Final = "10.244.0.0/24"
SERVICE_RANGE: Final = "10.96.0.0/16"
API_SERVICE_ADDRESS: Final = "10.96.0.1"
DNS_ADDRESS: Final = "10.96.0.10"
DOMAIN: Final = "cluster.local"

HOME: Final = "/run/node"
CONTAINERD_SOCKET: Final = "/run/containerd/containerd.sock"

SHELL_IMAGE: Final = "epd.local/shell:1"
"""A shell, small commands, and nothing else; what pods with mounted programs are made from."""
PAUSE_IMAGE: Final = "epd.local/pause:1"
DNS_IMAGE: Final = "epd.local/coredns:1"


def containerd(programs: Path) -> str:
    """Return containerd's configuration; `programs` is the folder with runc and the CNI plugins."""
    return f"""\
version = 3
root = "{HOME}/containerd"
state = "/run/containerd"
imports = []
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  # Root of a container machine may not lower it.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{programs}/runc"
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{programs}"]
    conf_dir = "{HOME}/etc/cni"
# It makes folders in /opt otherwise.
[plugins."io.containerd.internal.v1.opt"]
  path = "{HOME}/containerd/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""


def pod_network() -> dict[str, Any]:
    """Return the CNI configuration: all pods on one bridge."""
    addresses = {
        "type": "host-local",
        "dataDir": f"{HOME}/cni",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,  # a pod may reach itself through its Service
        "ipMasq": False,
        "ipam": addresses,
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def kubelet() -> dict[str, Any]:
    """Return the kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DOMAIN,
        "resolvConf": f"{HOME}/etc/resolv.conf",
        "tlsCertFile": f"{HOME}/pki/kubelet.crt",
        "tlsPrivateKeyFile": f"{HOME}/pki/kubelet.key",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{HOME}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "makeIPTablesUtilChains": False,
        # The machine's disk is not ours to judge.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
    }


def proxy() -> dict[str, Any]:
    """Return kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NODE,
        "clusterCIDR": POD_RANGE,
        "clientConnection": {"kubeconfig": f"{HOME}/kube-proxy.kubeconfig"},
        "conntrack": {"maxPerCore": 0},  # not ours to set in a network namespace
        "oomScoreAdj": 0,
    }


def dns() -> str:
    """Return the manifests of CoreDNS; names outside the cluster do not exist, and it says so."""
    corefile = f"""\
{DOMAIN}:53 in-addr.arpa:53 {{
    errors
    ready
    kubernetes {DOMAIN} in-addr.arpa
    cache 5
}}
.:53 {{
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
    labels = {"k8s-app": "kube-dns"}
    system = {"name": "coredns", "namespace": "kube-system"}
    rbac = "rbac.authorization.k8s.io"
    container = {
        "name": "coredns",
        "image": DNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["/coredns", "-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    reads = [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "epd:coredns"}
    ports = [{"name": name.lower(), "port": 53, "protocol": name} for name in ("UDP", "TCP")]
    service = {"clusterIP": DNS_ADDRESS, "selector": labels, "ports": ports}
    template = {"metadata": {"labels": labels}, "spec": pod}
    documents: list[dict[str, Any]] = [
        _object("v1", "ServiceAccount", system),
        _object(f"{rbac}/v1", "ClusterRole", {"name": "epd:coredns"}, rules=reads),
        _object(
            f"{rbac}/v1",
            "ClusterRoleBinding",
            {"name": "epd:coredns"},
            roleRef=role,
            subjects=[{"kind": "ServiceAccount", **system}],
        ),
        _object("v1", "ConfigMap", system, data={"Corefile": corefile}),
        _object("v1", "Service", {**system, "name": "kube-dns"}, spec=service),
        _object(
            "apps/v1",
            "Deployment",
            system,
            spec={"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        ),
    ]
    return yaml.safe_dump_all(documents)


def _object(version: str, kind: str, metadata: dict[str, str], **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}
