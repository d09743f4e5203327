"""What watches a cluster: rules and dashboards are as generated, and lead to runbooks."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from gen_monitoring import DASHBOARDS, RULES, files, rules_text
from grafana_foundation_sdk.models.dashboard import Dashboard
from monitoring.boards import BOARDS
from monitoring.rules import ALERTS, RECORDINGS

from epd import telemetry
from epd_cli.__main__ import parser as local_parser
from epd_cli.kubectl_epd import parser

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
INDEX = (RUNBOOKS / "README.md").read_text()
HEADINGS = ["## What it means", "## How to look", "## What to do"]
SERIES = re.compile(r"\bepd_(?!dev_)\w+")
SUFFIXES = ("", "_bucket", "_sum", "_count")
KNOWN = {metric.name + suffix for metric in telemetry.METRICS for suffix in SUFFIXES}

NAMES = [alert.name for alert in ALERTS]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path):
    assert path.read_text() == files()[path], "run `make gen`"


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on(alert):
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    rule = rules[alert.name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    assert (ROOT / rule["annotations"]["runbook_url"]).is_file()


def test_rules_for_tests_are_the_same_with_every_duration_divided():
    text, quick = RULES.read_text(), rules_text(30)
    assert rules_text() == text
    windows, fors = re.compile(r"\[(\d+)(ms|[smh])\]"), re.compile(r"for: (\d+)(ms|[smh])")
    units_s = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    for durations in (windows, fors):
        before, after = (
            [int(number) * units_s[unit] for number, unit in durations.findall(rules)]
            for rules in (text, quick)
        )
        assert after == pytest.approx([each / 30 for each in before])
        assert before
    bare = [fors.sub("", windows.sub("", " ".join(rules.split()))) for rules in (text, quick)]
    ages = {"> 60": "> 2", "> 90": "> 3", "< 1209600": "< 40320"}
    for age, shorter in ages.items():
        assert bare[0].count(f"{age} ") == 1
        bare[0] = bare[0].replace(f"{age} ", f"{shorter} ")
    assert bare[0] == bare[1]


def test_every_runbook_belongs_to_an_alert_and_is_listed():
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(NAMES)
    assert [name for name in NAMES if f"[{name}]({name}.md)" not in INDEX] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_says_what_it_means_how_to_look_and_what_to_do(name):
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^## .*", text, re.MULTILINE) == HEADINGS
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (RUNBOOKS / link).is_file(), link


@pytest.mark.parametrize("name", NAMES)
def test_our_commands_in_a_runbook_exist(name):
    (block,) = re.findall(r"```sh\n(.*?)```", (RUNBOOKS / f"{name}.md").read_text(), re.DOTALL)
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert program == "kubectl"
        if words[0] == "epd":
            assert parser().parse_args(words[1:]).command == words[1]


def local_forms():
    """Return the runbooks' table: what is asked beside `epd up` instead of on Kubernetes."""
    rows = re.findall(r"^\| `(kubectl epd .*?)` \| `epd (.*?)` \|$", INDEX, re.MULTILINE)
    return dict(rows)


def test_what_runbooks_ask_our_plugin_can_be_asked_beside_epd_up():
    asked = {
        line
        for name in NAMES
        for line in (RUNBOOKS / f"{name}.md").read_text().splitlines()
        if line.startswith("kubectl epd ")
    }
    assert asked
    assert asked <= local_forms().keys()
    for ours in local_forms().values():
        assert local_parser().parse_args(shlex.split(ours)).command == ours.split()[0]


def test_rules_ask_for_series_that_exist():
    asked = {name for each in (*RECORDINGS, *ALERTS) for name in SERIES.findall(each.expr)}
    assert asked
    assert asked <= KNOWN


def documents():
    return [json.loads((DASHBOARDS[0] / f"{board.uid}.json").read_text()) for board in BOARDS]


@pytest.mark.parametrize("document", documents(), ids=lambda document: document["uid"])
def test_a_dashboard_is_one_by_the_types_of_grafanas_own_sdk(document):
    read = Dashboard.from_json(document)
    assert read.title == document["title"]
    assert len(read.panels) == len(document["panels"])
    variables = [each["name"] for each in document["templating"]["list"]]
    assert variables == ["datasource", "namespace", "model", "cluster", "role"]
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_says_what_it_shows_and_leads_to_runbooks_that_exist(board):
    titles = [panel.title for panel in board.panels]
    assert len(set(titles)) == len(titles)
    for panel in board.panels:
        assert panel.description.endswith(".")
        assert panel.unit
        assert panel.queries
        assert set(panel.runbooks) <= set(NAMES)
        for query in panel.queries:
            assert set(SERIES.findall(query.expr)) <= KNOWN
            assert query.expr.count("(") == query.expr.count(")")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_row_of_panels_fills_the_boards_width(board):
    for title, panels in board.rows:
        assert sum(panel.width for panel in panels) % 24 == 0, title


def test_every_alert_is_explained_by_a_panel():
    explained = {name for board in BOARDS for panel in board.panels for name in panel.runbooks}
    assert set(NAMES) - explained == set()
