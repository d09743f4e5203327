"""Write rules, dashboards and the list of metrics, or with `--check` compare them."""

import sys
from pathlib import Path

import yaml
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

ROOT = Path(__file__).resolve().parent.parent
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


def main(arguments: list[str]) -> int:
    """Write or compare; return the exit status."""
    for path, text in files().items():
        shown = path.relative_to(ROOT)
        if arguments != ["--check"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{shown} is not what it is made from; run `make gen`")
            return 1
        print(shown if arguments != ["--check"] else f"{shown}: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
