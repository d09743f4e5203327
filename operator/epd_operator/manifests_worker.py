"""Builds worker pods. All pods of a revision are alike but for name and role labels."""

from typing import Final

from epd.api.names import EngineType
from epd.vocabulary import (
    ASSIGNED_ROLE,
    DEFAULT_PORTS,
    LLM_D_ROLE_LABEL,
    REVISION_LABEL,
    ROLE_LABEL,
    Component,
    PortName,
    Role,
)
from epd_operator.manifests_tls import TLS_PATH, tls_mount, tls_volume
from epd_operator.model_source import ModelFiles, model_files
from epd_operator.node_loss import node_loss_tolerations
from epd_operator.objects import Kind, Manifest, digest
from epd_operator.pod_security import (
    SCRATCH_PATH,
    container_security_context,
    pod_security_context,
    scratch_mount,
    scratch_volume,
)
from epd_operator.pod_template import merged
from epd_operator.wanted import Wanted, labels

CONTAINER: Final = "worker"
WORKER_GRACE_S: Final = 30
"""How long work in flight may go on once the container is told to end."""

START_PATIENCE_S: Final = 900
"""How long a worker may take before it first answers: Python, torch and the engine's import."""

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a pod's own network
_PORTS: Final = (
    PortName.WORKER_GRPC,
    PortName.WORKER_METRICS,
    PortName.WORKER_KV,
    PortName.WORKER_EC,
    PortName.WORKER_PROBES,
)


def worker_template(wanted: Wanted) -> Manifest:
    """Return what all worker pods of the cluster have in common, the user's template on top."""
    model = model_files(wanted.spec.model)
    base = {
        "metadata": {"labels": labels(wanted.key.name, Component.WORKER), "annotations": {}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": WORKER_GRACE_S + 15,
            "securityContext": pod_security_context(),
            "containers": [_container(wanted, model)],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
                scratch_volume(),
                tls_volume(wanted),
                *model.volumes,
            ],
            "tolerations": node_loss_tolerations(),
        },
    }
    return merged(base, wanted.spec.pod_template.manifest)


def revision_of(wanted: Wanted) -> str:
    """Return the digest of the cluster's worker template: pods of another one are outdated."""
    return digest(worker_template(wanted))


def worker_pod(wanted: Wanted, name: str, role: Role) -> Manifest:
    """Return one worker pod."""
    template = worker_template(wanted)
    marks = template["metadata"]
    return {
        **Kind.POD.type_meta,
        "metadata": {
            "name": name,
            "namespace": wanted.key.namespace,
            "ownerReferences": [wanted.owner_reference],
            "labels": {
                **marks["labels"],
                **role_labels(role),
                REVISION_LABEL: digest(template),
            },
            "annotations": {**marks["annotations"], ASSIGNED_ROLE: role.value},
        },
        "spec": template["spec"],
    }


def role_labels(role: Role) -> dict[str, str]:
    """Return the labels that say a pod's role: ours and llm-d's, always written together."""
    return {ROLE_LABEL: role.value, LLM_D_ROLE_LABEL: role.value}


def _container(wanted: Wanted, model: ModelFiles) -> Manifest:
    container: Manifest = {
        "name": CONTAINER,
        "image": wanted.spec.engine.image or wanted.images.worker,
        "command": ["epd-worker"],
        "args": _arguments(wanted, model.argument),
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            # The root is read-only: caches of the engine and of the hub go where one may write.
            {"name": "HOME", "value": SCRATCH_PATH},
            *model.environment,
        ],
        "ports": [
            {"name": name.value, "containerPort": DEFAULT_PORTS[name], "protocol": "TCP"}
            for name in _PORTS
        ],
        "securityContext": container_security_context(),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own
            scratch_mount(),
            tls_mount(),
            *model.mounts,
        ],
        # A loading worker answers /health and not yet /ready; a dead or frozen one answers neither.
        "startupProbe": _probe("/health", period_s=5, failures=START_PATIENCE_S // 5),
        "livenessProbe": _probe("/health", period_s=10, failures=6),
        "readinessProbe": _probe("/ready", period_s=2, failures=3),
    }
    device = wanted.spec.transport.rdma_resource_name
    if device is not None:
        container["resources"] = {"limits": {device: "1"}, "requests": {device: "1"}}
    return container


def _probe(path: str, *, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": PortName.WORKER_PROBES.value},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _arguments(wanted: Wanted, model: str) -> list[str]:
    spec = wanted.spec
    arguments = ["--name=$(POD_NAME)", f"--listen={_EVERYWHERE}:{_port(PortName.WORKER_GRPC)}"]
    arguments += [f"--metrics-listen={_EVERYWHERE}:{_port(PortName.WORKER_METRICS)}"]
    arguments += [f"--health-listen={_EVERYWHERE}:{_port(PortName.WORKER_PROBES)}"]
    arguments += ["--side-channel-host=$(POD_IP)"]
    arguments += [f"--kv-side-channel-port={_port(PortName.WORKER_KV)}"]
    arguments += [f"--ec-side-channel-port={_port(PortName.WORKER_EC)}"]
    arguments += [f"--tls-cert={TLS_PATH}/tls.crt", f"--tls-key={TLS_PATH}/tls.key"]
    arguments += [f"--tls-ca={TLS_PATH}/ca.crt", f"--grace-s={WORKER_GRACE_S}"]
    arguments += [f"--served-name={_literal(spec.model.served_name)}"]
    if spec.engine.type is EngineType.SIMULATED:
        curves = spec.engine.simulated and spec.engine.simulated.cost_curves_file
        curve_file = [f"--cost-curves={_literal(curves)}"] if curves else []
        return [*arguments, "--engine=simulated", *curve_file]
    revision = [f"--revision={spec.model.revision}"] if spec.model.revision else []
    engine_args = [_literal(argument) for argument in (*spec.engine.args, *revision)]
    arguments += ["--engine=vllm", f"--transport={spec.transport.type}"]
    return [*arguments, f"--model={_literal(model)}", "--", *engine_args]


def _port(name: PortName) -> int:
    return DEFAULT_PORTS[name]


def _literal(text: str) -> str:
    """Keep Kubernetes from reading $(NAME) in a user's text as a variable."""
    return text.replace("$(", "$$(")
