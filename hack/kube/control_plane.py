"""A Kubernetes control plane as four processes on loopback: real, without root, without nodes.

RBAC is on, Pod Security is enforced, garbage collection and scheduling happen. There is no node, so
a pod stays Pending unless something plays the node (`kube.fake_nodes`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from epd_operator import local_ports
from kube import binaries, credentials
from kube.api import Api
from kube.bed import Bed
from kube.child import Child

HOST: Final = "127.0.0.1"
ISSUER: Final = "https://kubernetes.default.svc"
PROGRAMS: Final = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
)
PORTS: Final = 2


class ControlPlane(Bed):
    """One control plane, from `start` to `stop`."""

    def __init__(self, folder: Path | None = None) -> None:
        """Plan one; see `Bed`.

        Raises:
            kube.binaries.UnavailableError: The programs cannot be had.
        """
        self._programs = binaries.find(*PROGRAMS)
        self._first_port = local_ports.free_block(PORTS, HOST)
        super().__init__(folder)

    def start(self) -> None:
        """Start everything; return once namespaces, accounts and pods can be made."""
        credentials.write_key(self.pki("accounts.key"))
        tokens = credentials.TokenFile(self.pki("tokens.csv"))
        admin = tokens.token_for(credentials.ADMIN)
        controllers = tokens.token_for(credentials.CONTROLLER_MANAGER)
        scheduler = tokens.token_for(credentials.SCHEDULER)
        self._start_etcd()
        self._start_api_server()
        # The API server vouches for itself, by a certificate that it makes when it first starts.
        certificate = self.pki("apiserver.crt")
        self.wait("kube-apiserver", lambda: certificate.is_file() and certificate.stat().st_size)
        ca = certificate.read_bytes()
        self.api = Api(self.url, ca, admin, self.folder, self._programs["kubectl"])
        self.wait("kube-apiserver", self.api.is_ready)
        self._start_controllers(ca, controllers, scheduler)
        default = "/api/v1/namespaces/default/serviceaccounts/default"
        self.wait("kube-controller-manager", lambda: self.api.client.get(default).is_success)

    def stop(self) -> None:
        """End everything that runs, and remove its files."""
        super().stop()
        local_ports.release(self._first_port, PORTS)

    @property
    def url(self) -> str:
        """Address of the API server; the same after a restart."""
        return f"https://{HOST}:{self._first_port}"

    @property
    def api_server(self) -> Child:
        """The API server's process."""
        return self.children["kube-apiserver"]

    def crash_api_server(self) -> None:
        """End the API server without a warning; `restart_api_server` brings it back."""
        self.api_server.kill()

    def restart_api_server(self) -> None:
        """Start the API server anew, on its port and with its data; return once it is ready."""
        if self.api_server.is_running:
            self.api_server.stop()
        self._start_api_server()
        self.wait("kube-apiserver", self.api.is_ready)

    @contextmanager
    def frozen_api_server(self) -> Iterator[None]:
        """Stop the API server in the middle of its work for as long as the block lasts.

        Connections stay open and say nothing, as with a machine that hangs.
        """
        self.api_server.freeze()
        try:
            yield
        finally:
            self.api_server.thaw()

    @property
    def _etcd_url(self) -> str:
        return f"http://{HOST}:{self._first_port + 1}"

    def _start_etcd(self) -> None:
        self.run(
            "etcd",
            self._programs["etcd"],
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",  # nothing outlives the bed
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls=http://{HOST}:0",
            "--log-level=warn",
        )

    def _start_api_server(self) -> None:
        self.run(
            "kube-apiserver",
            self._programs["kube-apiserver"],
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={HOST}",
            f"--secure-port={self._first_port}",
            f"--cert-dir={self.folder / 'pki'}",
            f"--token-auth-file={self.pki('tokens.csv')}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-issuer={ISSUER}",
            f"--api-audiences={ISSUER}",
            f"--service-account-signing-key-file={self.pki('accounts.key')}",
            f"--service-account-key-file={self.pki('accounts.pub')}",
            "--service-cluster-ip-range=10.96.0.0/16",
            # Loopback is no address that an endpoint may have.
            "--endpoint-reconciler-type=none",
        )

    def _start_controllers(self, ca: bytes, controllers: str, scheduler: str) -> None:
        accounts = {"kube-controller-manager": controllers, "kube-scheduler": scheduler}
        flags = {
            "kube-controller-manager": (
                f"--root-ca-file={self.pki('apiserver.crt')}",
                f"--service-account-private-key-file={self.pki('accounts.key')}",
                "--use-service-account-credentials=true",
                # The default lets a thousand pods wait for half a minute.
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
            ),
            "kube-scheduler": ("--kube-api-qps=500", "--kube-api-burst=1000"),
        }
        for program, token in accounts.items():
            config = self.folder / f"{program}.kubeconfig"
            credentials.write_kubeconfig(config, credentials.kubeconfig(self.url, ca, token))
            self.run(
                program,
                self._programs[program],
                f"--kubeconfig={config}",
                f"--bind-address={HOST}",
                "--secure-port=0",
                "--leader-elect=false",
                *flags[program],
            )
