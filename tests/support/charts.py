"""The project's charts, rendered by the real Helm library."""

from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHARTS = Path(__file__).parents[2] / "charts"
OPERATOR, CRDS = CHARTS / "epd", CHARTS / "epd-crds"
NAMESPACE = "epd-system"
EVERYTHING: dict[str, Any] = {
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    "metrics": {
        "prometheusUrl": "http://prometheus:9090",
        "podMonitor": {
            "enabled": True,
            "nativeHistograms": True,
            "labels": {"release": "prometheus"},
        },
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
    },
    "dashboards": {"enabled": True, "annotations": {"folder": "EPD"}},
    "images": {"worker": "w:1", "gateway": "g:1"},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "priorityClassName": "system-cluster-critical",
    "serviceAccount": {"annotations": {"e": "f"}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "namespaced": {"watch": {"namespaces": ["a", "b"]}, "rbac": {"aggregateRoles": False}},
    "one-replica": {"replicas": 1},
    "own-account": {"serviceAccount": {"create": False, "name": "mine"}},
    "by-digest": {"image": {"digest": "sha256:" + "a" * 64}},
    "bare": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
}


def rendered(chart: Path, values: dict[str, Any], name: str = "epd") -> dict[str, str]:
    """Return the texts of a chart's templates by path."""
    with helm.Chart.load(str(chart)) as loaded:
        texts: dict[str, str] = loaded.render(values, name=name, namespace=NAMESPACE)
    return texts


def manifests(chart: Path, values: dict[str, Any], name: str = "epd") -> list[dict[str, Any]]:
    """Return all objects of a chart."""
    texts = rendered(chart, values, name).items()
    documents = (yaml.safe_load_all(text) for path, text in texts if path.endswith(".yaml"))
    return [document for group in documents for document in group if document]


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the one object of a kind."""
    (found,) = (item for item in objects if item["kind"] == kind)
    return found
