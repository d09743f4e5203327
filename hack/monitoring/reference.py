"""The page that lists every metric."""

from typing import Final

from epd.telemetry import LABEL_VALUES, METRICS, Metric
from epd.vocabulary import Component

_HEAD: Final = """\
# Metrics

Every program serves `/metrics`: gateways at their HTTP port, workers at 7001, the operator at 9100.
The list is that of `core/epd/telemetry.py`; a series that is not here does not exist. Labels have
the values below and no others, so no client can make series; `worker` is a pod's name. Gateways
send exemplars with a request's trace id to whoever asks for OpenMetrics. A worker with vLLM passes
vLLM's own series (`vllm:...`) on. [Monitoring](monitoring.md) says what to do with them.
"""
_TITLES: Final = {
    Component.GATEWAY: "Gateway",
    Component.WORKER: "Worker",
    Component.OPERATOR: "Operator and control loop",
}


def metrics_text() -> str:
    """Return the page."""
    lines = [_HEAD]
    for component, title in _TITLES.items():
        lines += [f"## {title}", "", "| metric | type | labels | what |", "|---|---|---|---|"]
        lines += [_row(metric) for metric in METRICS if metric.component is component]
        lines.append("")
    lines += ["## Labels", "", "| label | values |", "|---|---|"]
    for name, values in LABEL_VALUES.items():
        lines.append(f"| `{name}` | {', '.join(f'`{value}`' for value in values)} |")
    return "\n".join([*lines, "", "Made by `make gen`, not by hand.", ""])


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |"
