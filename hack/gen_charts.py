"""Write what the charts have from elsewhere, or with `--check` compare it.

The CustomResourceDefinition of charts/epd-crds comes from the models, each chart's README.md from
its Chart.yaml and the comments of its values.yaml that begin with two dashes.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from generated import ROOT, write_or_compare

from epd.api.crd import FILE_NAME, crd_text

CHARTS = ROOT / "charts"
NEXT_STEPS = {
    "epd-crds": """\
```sh
helm install epd-crds charts/epd-crds
helm upgrade epd-crds charts/epd-crds
```

Helm never upgrades what lies in a chart's `crds/` folder, so the definition is a template here.
It carries `helm.sh/resource-policy: keep`: `helm uninstall` leaves it, and all EPDClusters.
To remove both: `kubectl delete crd epdclusters.epd.dev`. Where it was made by other means:
`helm install --take-ownership`.
""",
    "epd": """\
```sh
helm install epd-crds charts/epd-crds
helm install epd charts/epd --namespace epd-system --create-namespace
kubectl apply -f examples/simulated.yaml
```

With `--set watch.namespaces={a,b}` the operator works in these namespaces alone and gets Roles
there instead of a ClusterRole; add `--set rbac.aggregateRoles=false` where no cluster-wide object
may be made. Before `helm uninstall`, delete the EPDCluster objects: the operator drains their pods.
""",
}
ANNOTATIONS = """\
  annotations:
    helm.sh/resource-policy: keep
    {{- with .Values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    app.kubernetes.io/name: epd
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    app.kubernetes.io/part-of: epd
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
"""


def crd_template() -> str:
    """Return the definition as a template that Helm keeps when the release goes."""
    text = crd_text()
    if "{{" in text:
        raise SystemExit("the CRD holds {{, which Helm would take for its own")
    name = "  name: epdclusters.epd.dev\n"
    if text.count(name) != 1:
        raise SystemExit("the CRD's metadata.name was expected once")
    return text.replace(name, name + ANNOTATIONS)


def described_values(text: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted name and description of each value that has one, in order."""
    path: list[tuple[int, str]] = []
    words: list[str] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if comment := re.match(r"\s*# (?:-- )?(.*)", line):
            if "# -- " in line:
                words = []
            words.append(comment[1])
        elif key := re.match(r"\s*([\w-]+):", line):
            path = [*((at, name) for at, name in path if at < indent), (indent, key[1])]
            if words:
                yield ".".join(name for _, name in path), " ".join(words)
            words = []
        else:
            words = []


def value_at(values: Any, dotted: str) -> Any:
    """Return a value by its dotted name."""
    for name in dotted.split("."):
        values = values[name]
    return values


def readme(chart: Path) -> str:
    """Return a chart's page."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    text = (chart / "values.yaml").read_text()
    values = yaml.safe_load(text)
    lines = [
        f"# Chart `{about['name']}`",
        "",
        f"{about['description']}. Kubernetes {about['kubeVersion'].removesuffix('-0')}.",
        "",
        NEXT_STEPS[chart.name],
        "## Values",
        "",
        "`values.schema.json` says what each may be; Helm refuses everything else.",
        "",
        "| value | default | what |",
        "|---|---|---|",
    ]
    for name, words in described_values(text):
        default = json.dumps(value_at(values, name))
        lines.append(f"| `{name}` | `{default}` | {words} |")
    return "\n".join([*lines, "", "Made by `make gen`, not by hand.", ""])


def files() -> dict[Path, str]:
    """Return every generated file with what it must hold."""
    wanted = {CHARTS / "epd-crds" / "templates" / FILE_NAME: crd_template()}
    return wanted | {CHARTS / name / "README.md": readme(CHARTS / name) for name in NEXT_STEPS}


if __name__ == "__main__":
    sys.exit(write_or_compare(files(), sys.argv[1:]))
