"""What every bed's API server is asked, as its administrator."""

import json
import os
import secrets
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from kube.credentials import kubeconfig, write_kubeconfig

READY_TIMEOUT_S: Final = 120.0
INTERVAL_S: Final = 0.05
TOKEN_LIFETIME_S: Final = 24 * 3600
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"

Rule = Mapping[str, Sequence[str]]
"""A rule of a Role: `{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}`."""


class KubectlError(AssertionError):
    """`kubectl` ended with a status other than 0; the text is what it said."""


class RefusedError(AssertionError):
    """The API server answered with an error; the text is what it said."""


class Api:
    """One API server: how to reach it, and the few calls that beds and tests share.

    Anything else is asked by `kubectl`, by `client` (httpx), or by a client library with the file
    `kubeconfig`.
    """

    def __init__(self, url: str, ca: bytes, token: str, folder: Path, kubectl: Path) -> None:
        """Remember an API server; `folder` is where kubeconfig files of ours go."""
        self.url = url
        self.ca = ca
        """PEM that vouches for the server."""
        self.token = token
        """Bearer token of a member of system:masters."""
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self._kubectl = kubectl
        write_kubeconfig(self.kubeconfig, kubeconfig(url, ca, token))
        context = ssl.create_default_context(cadata=ca.decode())
        self.client = httpx.Client(
            base_url=url,
            verify=context,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )
        """An httpx client that is the administrator."""

    def call(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """Ask the API, and return its answer.

        Raises:
            RefusedError: The answer is an error.
        """
        answer = self.client.request(method, path, json=body, **options)
        if answer.is_error:
            raise RefusedError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def kubectl(self, *arguments: str | Path, manifest: object = None) -> str:
        """Run kubectl as the administrator and return what it prints.

        `manifest` goes to its standard input: text as it is, anything else as JSON.

        Raises:
            KubectlError: It ended badly.
        """
        text = manifest if isinstance(manifest, str) or manifest is None else json.dumps(manifest)
        done = subprocess.run(
            [self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECACHEDIR": str(self.folder / "cache")},
        )
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def is_ready(self) -> bool:
        """Tell whether the server answers and says that it is ready."""
        try:
            return self.client.get("/readyz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def create_namespace(
        self, prefix: str = "test", labels: Mapping[str, str] | None = None
    ) -> str:
        """Create a namespace with a name of its own, usable at once; return the name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.call(
            "POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {**(labels or {})}}}
        )
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        # Pods are refused until the controller manager has made it.
        wait_until(lambda: self.client.get(account).is_success, f"{name} has no default account")
        return name

    def delete_namespace(self, name: str) -> None:
        """Have a namespace deleted, and do not wait for it."""
        self.client.delete(f"/api/v1/namespaces/{name}")

    def service_account(
        self,
        namespace: str,
        name: str,
        *,
        rules: Sequence[Rule] = (),
        cluster_rules: Sequence[Rule] = (),
    ) -> Path:
        """Create a ServiceAccount with these rights and no others; return its kubeconfig.

        `rules` hold in `namespace`, `cluster_rules` everywhere. The token is a real one, for a day.
        """
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self.call("POST", accounts, {"metadata": {"name": name}})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        if rules:
            self._grant(f"{RBAC}/namespaces/{namespace}", "Role", name, rules, subject)
        if cluster_rules:
            wide_name = f"{namespace}-{name}"
            self._grant(RBAC, "ClusterRole", wide_name, cluster_rules, subject)
        return self.account_kubeconfig(namespace, name)

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with a fresh token of a ServiceAccount that exists."""
        asked = self.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {"spec": {"expirationSeconds": TOKEN_LIFETIME_S}},
        )
        path = self.folder / f"{namespace}-{name}-{secrets.token_hex(2)}.kubeconfig"
        token = asked["status"]["token"]
        write_kubeconfig(path, kubeconfig(self.url, self.ca, token, namespace))
        return path

    def _grant(
        self, base: str, kind: str, name: str, rules: Sequence[Rule], subject: Mapping[str, str]
    ) -> None:
        plural = f"{kind.lower()}s"
        body = {"metadata": {"name": name}, "rules": [dict(rule) for rule in rules]}
        self.call("POST", f"{base}/{plural}", body)
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
        self.call("POST", f"{base}/{kind.lower()}bindings", binding)


def wait_until(
    holds: Callable[[], object], complaint: str, timeout_s: float = READY_TIMEOUT_S
) -> None:
    """Return once `holds()` is true.

    Raises:
        TimeoutError: It was not within `timeout_s`; the message is `complaint`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{complaint} after {timeout_s:.0f} s")
        time.sleep(INTERVAL_S)
