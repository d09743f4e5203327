"""Write rules, dashboards and the list of metrics, or with `--check` compare them."""

import sys
from pathlib import Path

import yaml
from generated import ROOT, write_or_compare
from monitoring.boards import BOARDS
from monitoring.grafana import dashboard_text
from monitoring.reference import metrics_text
from monitoring.rules import (
    CONTROL_ALERTS,
    RECORDINGS,
    SERVICE_ALERTS,
    Alert,
    quickened,
    shortened,
)

RULES = ROOT / "charts" / "epd" / "rules" / "epd.yaml"
METRICS = ROOT / "docs" / "metrics.md"
DASHBOARDS = (ROOT / "dashboards", ROOT / "charts" / "epd" / "dashboards")
HEADER = """\
# Rules for Prometheus, as they are: `promtool check rules` takes this file, and the chart puts it
# into a PrometheusRule. Made by `make gen` from hack/monitoring/rules.py, not by hand.
"""


def alert_rule(alert: Alert, faster: float) -> dict[str, object]:
    """Return an alert as Prometheus has it."""
    return {
        "alert": alert.name,
        "expr": alert.condition(faster),
        "for": shortened(alert.hold, faster),
        "labels": {"severity": alert.severity.value},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"docs/runbooks/{alert.name}.md",
        },
    }


def rules_text(faster: float = 1) -> str:
    """Return the rules file; for tests on a real Prometheus with all durations shortened.

    Args:
        faster: Divides every window, every `for` and every age; names of records stay.
    """
    groups = [
        {
            "name": "epd-records",
            "rules": [
                {"record": each.record, "expr": quickened(each.expr, faster)} for each in RECORDINGS
            ],
        },
        {"name": "epd-service", "rules": [alert_rule(each, faster) for each in SERVICE_ALERTS]},
        {"name": "epd-control", "rules": [alert_rule(each, faster) for each in CONTROL_ALERTS]},
    ]
    return HEADER + yaml.safe_dump({"groups": groups}, sort_keys=False, width=100)


def files() -> dict[Path, str]:
    """Return every generated file with what it must hold."""
    wanted = {RULES: rules_text(), METRICS: metrics_text()}
    for board in BOARDS:
        text = dashboard_text(board)
        # Helm reads nothing outside a chart.
        wanted |= {folder / f"{board.uid}.json": text for folder in DASHBOARDS}
    return wanted


if __name__ == "__main__":
    sys.exit(write_or_compare(files(), sys.argv[1:]))
