"""What a PodMonitor means to Prometheus, as the prometheus-operator writes it down (v0.85)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]


def scrape_jobs(monitor: Json, namespace: str, kubeconfig: Path) -> list[dict[str, Any]]:
    """Return a scrape configuration for each endpoint, over the pods of one namespace."""
    spec = monitor["spec"]
    discovery = {
        "role": "pod",
        "kubeconfig_file": str(kubeconfig),
        "namespaces": {"names": [namespace]},
    }
    return [
        {
            "job_name": f"{monitor['metadata']['name']}/{number}",
            "honor_labels": endpoint.get("honorLabels", False),
            "scheme": endpoint.get("scheme", "http"),
            "tls_config": _tls(endpoint.get("tlsConfig") or {}),
            "kubernetes_sd_configs": [discovery],
            "relabel_configs": [
                *_selected(spec["selector"]),
                _keep("__meta_kubernetes_pod_container_port_name", endpoint["port"]),
                _copy("__meta_kubernetes_namespace", "namespace"),
                _copy("__meta_kubernetes_pod_name", "pod"),
                *(_copy(_label(name), _plain(name)) for name in spec.get("podTargetLabels") or ()),
            ],
        }
        for number, endpoint in enumerate(spec["podMetricsEndpoints"])
    ]


def _tls(stated: Json) -> dict[str, Any]:
    """Translate what our monitors state; KeyError for what they never did."""
    names = {"insecureSkipVerify": "insecure_skip_verify"}
    return {names[name]: value for name, value in stated.items()}


def _selected(selector: Json) -> Iterator[dict[str, Any]]:
    for name, value in (selector.get("matchLabels") or {}).items():
        yield _keep(_label(name), value)
    for each in selector.get("matchExpressions") or ():
        if each["operator"] == "In":
            yield _keep(_label(each["key"]), "|".join(each["values"]))
        else:
            assert each["operator"] == "Exists"
            yield _keep(f"__meta_kubernetes_pod_labelpresent_{_plain(each['key'])}", "true")


def _keep(source: str, regex: str) -> dict[str, Any]:
    return {"action": "keep", "source_labels": [source], "regex": regex}


def _copy(source: str, target: str) -> dict[str, Any]:
    return {"source_labels": [source], "target_label": target}


def _label(name: str) -> str:
    return f"__meta_kubernetes_pod_label_{_plain(name)}"


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
