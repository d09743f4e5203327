"""Builds what stands in front of the worker pods: gateways, their Service and their rights."""

from typing import Final

from epd.vocabulary import (
    DEFAULT_PORTS,
    GATEWAY_ADMIN_PORT,
    GATEWAY_TLS_PORT_NAME,
    WORKER_TLS_NAME,
    Component,
    PortName,
)
from epd_operator.gateway_settings import gateway_settings
from epd_operator.manifests_tls import TLS_PATH, tls_mount, tls_volume
from epd_operator.node_loss import node_loss_tolerations
from epd_operator.objects import Kind, Manifest
from epd_operator.pod_security import (
    SCRATCH_PATH,
    container_security_context,
    pod_security_context,
    scratch_mount,
    scratch_volume,
)
from epd_operator.pod_template import merged
from epd_operator.wanted import Wanted, labels, selector

CONTAINER: Final = "gateway"
GATEWAY_GRACE_S: Final = 60
"""How long streams may go on once a gateway is told to end."""

LEAVE_SERVICE_S: Final = 5
"""A gateway that is to end serves on for so long: every node must first have heard of it."""

_KEYS_PATH: Final = "/etc/epd/api-keys"
_PUBLIC_TLS_PATH: Final = "/etc/epd/public-tls"
_SETTINGS_PATH: Final = "/etc/epd/settings"
_SETTINGS: Final = "settings"
_PORT: Final = DEFAULT_PORTS[PortName.GATEWAY_HTTP]


def gateway_objects(wanted: Wanted) -> list[Manifest]:
    """Return all objects of the gateways, in the order in which they are made."""
    return [
        _service_account(wanted),
        _role(wanted),
        _role_binding(wanted),
        _service(wanted),
        _settings(wanted),
        _deployment(wanted),
    ]


def gateway_name(wanted: Wanted) -> str:
    """Return the name that all objects of the gateways have."""
    return wanted.name("gateway")


def _service_account(wanted: Wanted) -> Manifest:
    return {
        **Kind.SERVICE_ACCOUNT.type_meta,
        "metadata": wanted.metadata(gateway_name(wanted), Component.GATEWAY),
        "automountServiceAccountToken": False,
    }


def _role(wanted: Wanted) -> Manifest:
    return {
        **Kind.ROLE.type_meta,
        "metadata": wanted.metadata(gateway_name(wanted), Component.GATEWAY),
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    }


def _role_binding(wanted: Wanted) -> Manifest:
    name = gateway_name(wanted)
    return {
        **Kind.ROLE_BINDING.type_meta,
        "metadata": wanted.metadata(name, Component.GATEWAY),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": wanted.key.namespace}],
    }


def _service(wanted: Wanted) -> Manifest:
    return {
        **Kind.SERVICE.type_meta,
        "metadata": wanted.metadata(gateway_name(wanted), Component.GATEWAY),
        "spec": {
            "type": wanted.spec.gateway.service_type.value,
            "selector": selector(wanted.key.name, Component.GATEWAY),
            "ports": [
                {
                    "name": _port_name(wanted),
                    "port": wanted.spec.gateway.port,
                    # By number: pods of before and after a change to TLS serve side by side.
                    "targetPort": _PORT,
                    "protocol": "TCP",
                }
            ],
        },
    }


def _settings(wanted: Wanted) -> Manifest:
    """Return what gateways read anew when it changes: another objective restarts none of them."""
    told = gateway_settings(wanted.spec).items()
    return {
        **Kind.CONFIG_MAP.type_meta,
        "metadata": wanted.metadata(gateway_name(wanted), Component.GATEWAY),
        "data": {_SETTINGS: "".join(f"{name}={value}\n" for name, value in told)},
    }


def _deployment(wanted: Wanted) -> Manifest:
    return {
        **Kind.DEPLOYMENT.type_meta,
        "metadata": wanted.metadata(gateway_name(wanted), Component.GATEWAY),
        "spec": {
            "replicas": wanted.spec.gateway.replicas,
            "selector": {"matchLabels": selector(wanted.key.name, Component.GATEWAY)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": _template(wanted),
        },
    }


def _template(wanted: Wanted) -> Manifest:
    secrets = {name: secret for name, (secret, _) in _secrets(wanted).items()}
    settings = {"name": _SETTINGS, "configMap": {"name": gateway_name(wanted)}}
    volumes = [scratch_volume(), tls_volume(wanted), settings]
    volumes += ({"name": name, "secret": {"secretName": each}} for name, each in secrets.items())
    base: Manifest = {
        "metadata": {"labels": labels(wanted.key.name, Component.GATEWAY)},
        "spec": {
            "serviceAccountName": gateway_name(wanted),
            "automountServiceAccountToken": True,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GATEWAY_GRACE_S + LEAVE_SERVICE_S + 10,
            "securityContext": pod_security_context(),
            "containers": [_container(wanted)],
            "volumes": volumes,
            "tolerations": node_loss_tolerations(),
        },
    }
    return merged(base, wanted.spec.gateway.pod_template.manifest)


def _container(wanted: Wanted) -> Manifest:
    mounts = [scratch_mount(), tls_mount()]
    mounts.append({"name": _SETTINGS, "mountPath": _SETTINGS_PATH, "readOnly": True})
    mounts += (
        {"name": name, "mountPath": path, "readOnly": True}
        for name, (_, path) in _secrets(wanted).items()
    )
    return {
        "name": CONTAINER,
        "image": wanted.images.gateway,
        "command": ["epd-gateway"],
        "args": _arguments(wanted),
        "env": [{"name": "HOME", "value": SCRATCH_PATH}],
        "ports": [{"name": _port_name(wanted), "containerPort": _PORT, "protocol": "TCP"}],
        "securityContext": container_security_context(),
        "volumeMounts": mounts,
        "startupProbe": _probe(wanted, "/health", period_s=1, failures=60),
        "livenessProbe": _probe(wanted, "/health", period_s=10, failures=3),
        "readinessProbe": _probe(wanted, "/ready", period_s=2, failures=2),
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SERVICE_S}}},
    }


def _secrets(wanted: Wanted) -> dict[str, tuple[str, str]]:
    """Return the gateways' own volumes: for each the Secret in it and where it is mounted."""
    found: dict[str, tuple[str, str]] = {}
    if wanted.api_keys is not None:
        found["api-keys"] = (wanted.api_keys.name, _KEYS_PATH)
    if wanted.spec.gateway.tls_secret_name is not None:
        found["public-tls"] = (wanted.spec.gateway.tls_secret_name, _PUBLIC_TLS_PATH)
    return found


def _port_name(wanted: Wanted) -> str:
    has_tls = wanted.spec.gateway.tls_secret_name is not None
    return GATEWAY_TLS_PORT_NAME if has_tls else PortName.GATEWAY_HTTP.value


def _probe(wanted: Wanted, path: str, *, period_s: int, failures: int) -> Manifest:
    scheme = "HTTP" if wanted.spec.gateway.tls_secret_name is None else "HTTPS"
    return {
        "httpGet": {"path": path, "port": _port_name(wanted), "scheme": scheme},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _arguments(wanted: Wanted) -> list[str]:
    gateway = wanted.spec.gateway
    arguments = [f"--listen=0.0.0.0:{_PORT}", f"--kubernetes-cluster={wanted.key.name}"]
    arguments += [f"--namespace={wanted.key.namespace}"]
    # On loopback: who may `kubectl port-forward` may look, and nobody else.
    arguments += [f"--admin-listen=127.0.0.1:{GATEWAY_ADMIN_PORT}"]
    arguments += [f"--model={wanted.spec.model.served_name}"]
    arguments.append(f"--settings-file={_SETTINGS_PATH}/{_SETTINGS}")
    if wanted.api_keys is not None:
        arguments.append(f"--api-key-file={_KEYS_PATH}/{wanted.api_keys.key}")
    settings: dict[str, object] = {
        "listen.stop_grace_s": GATEWAY_GRACE_S,
        "workers.tls_ca": f"{TLS_PATH}/ca.crt",
        "workers.tls_certificate": f"{TLS_PATH}/tls.crt",
        "workers.tls_key": f"{TLS_PATH}/tls.key",
        "workers.tls_server_name": WORKER_TLS_NAME,
    }
    if gateway.tls_secret_name is not None:
        settings["listen.tls_certificate"] = f"{_PUBLIC_TLS_PATH}/tls.crt"
        settings["listen.tls_key"] = f"{_PUBLIC_TLS_PATH}/tls.key"
    return [*arguments, *(f"--set={name}={value}" for name, value in settings.items())]
