"""Grafana's JSON of a board, by the types of grafana-foundation-sdk."""

import json
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from epd import telemetry
from monitoring.board import OF_CLUSTER, Board, Kind, Panel, Query
from monitoring.promql import CLUSTER

RUNBOOKS: Final = "docs/runbooks/"
FLIP_TITLE: Final = "{{from_role}} becomes {{to_role}}: {{why}}"
_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_TAG: Final = "epd"
_HEIGHT: Final = {Kind.NUMBER: 4}
_RED, _GREEN = "red", "green"
_LINES: Final = 8


def dashboard_text(board: Board) -> str:
    """Return the file of a board."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([_TAG])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables(_variables())
        .links(_links())
    )
    if board.flips:
        made.annotation(_flips())
    for title, panels in board.rows:
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_panel(panel))
    document = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    for annotation in document.get("annotations", {}).get("list", []):
        annotation |= {"step": "5s", "titleFormat": FLIP_TITLE}
    for variable in document["templating"]["list"]:
        for name in _OF_INTERVALS:
            variable.pop(name, None)
    for number, panel_json in enumerate(document["panels"], start=1):
        panel_json["id"] = number
    return json.dumps(document, indent=1) + "\n"


_OF_INTERVALS: Final = ("auto", "auto_count", "auto_min")
"""What the SDK writes into every variable, and Grafana knows of interval variables only."""


def _variables() -> list[Builder[models.VariableModel]]:
    info = telemetry.GATEWAY_INFO.name
    of_namespace = 'namespace=~"$namespace"'
    in_model = f'{of_namespace}, model=~"$model"'
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _query_variable("namespace", "Namespace", f"label_values({info}, namespace)"),
        _query_variable("model", "Model", f"label_values({info}{{{of_namespace}}}, model)"),
        _query_variable(
            "cluster", "Cluster", f"label_values({info}{{{in_model}}}, epd_dev_cluster)"
        ),
        _query_variable(
            "role", "Role", f"label_values({telemetry.ROSTER_PODS.name}{{{OF_CLUSTER}}}, role)"
        ),
    ]


def _query_variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query({"query": query, "refId": name})
        .include_all(True)
        .multi(True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all", selected=True))
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _links() -> list[Builder[models.DashboardLink]]:
    boards = dashboard.DashboardLink("Boards").type(models.DashboardLinkType.DASHBOARDS)
    runbooks = dashboard.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK)
    return [
        boards.tags([_TAG]).include_vars(True).keep_time(True).as_dropdown(True),
        runbooks.url(f"{RUNBOOKS}README.md").target_blank(True),
    ]


def flips_expr() -> str:
    """Return what is above 0 where a flip was made in the last seconds."""
    by = f"{CLUSTER}, from_role, to_role, why"
    now = f"sum by ({by}) ({telemetry.CONTROL_FLIPS.name}{{{OF_CLUSTER}}})"
    before = f"sum by ({by}) ({telemetry.CONTROL_FLIPS.name}{{{OF_CLUSTER}}} offset 10s)"
    # A pair of roles that flips for the first time had no series before.
    return f"({now} - ({before} or {now} * 0)) > 0"


def _flips() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Flips")
        .datasource(_SOURCE)
        .enable(True)
        .icon_color("purple")
        .expr(flips_expr())
    )


def _panel(panel: Panel) -> Any:
    made: Any
    if panel.kind is Kind.NUMBER:
        made = stat.Panel().color_mode(commons.BigValueColorMode.BACKGROUND)
        made.graph_mode(commons.BigValueGraphMode.AREA).thresholds(_thresholds(panel))
    elif panel.kind is Kind.HEATMAP:
        axis = heatmap.YAxisConfig().unit(panel.unit.value).reverse(False)
        color = heatmap.HeatmapColorOptions().scheme("Oranges").steps(32)
        made = heatmap.Panel().calculate(False).y_axis(axis)
        made.color(color.mode(heatmaps.HeatmapColorMode.SCHEME))
    else:
        made = _lines(panel)
    made.title(panel.title).description(panel.description).datasource(_SOURCE)
    made.unit(panel.unit.value).span(panel.width).height(_HEIGHT.get(panel.kind, _LINES))
    made.links([_runbook(name) for name in panel.runbooks])
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(letter, query, panel.kind))
    return made


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True)
    legend.display_mode(commons.LegendDisplayMode.LIST)
    legend.placement(commons.LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(commons.TooltipDisplayMode.MULTI)
    made = timeseries.Panel().min(0).legend(legend).tooltip(tooltip).line_width(2)
    made.fill_opacity(40 if panel.kind is Kind.STACK else 5)
    if panel.kind is Kind.STACK:
        made.stacking(common.StackingConfig().mode(commons.StackingMode.NORMAL))
    if panel.bad_from is not None or panel.bad_below is not None:
        style = common.GraphThresholdsStyleConfig().mode(commons.GraphThresholdsStyleMode.DASHED)
        made.thresholds(_thresholds(panel)).thresholds_style(style)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        if query.is_limit:
            dashes = {"fill": "dash", "dash": [8, 8]}
            made.override_by_query(
                letter,
                [
                    models.DynamicConfigValue(
                        id_val="color", value={"mode": "fixed", "fixedColor": _RED}
                    ),
                    models.DynamicConfigValue(id_val="custom.lineStyle", value=dashes),
                    models.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                ],
            )
    return made


def _thresholds(panel: Panel) -> Builder[models.ThresholdsConfig]:
    low, high, at = _GREEN, _RED, panel.bad_from
    if panel.bad_below is not None:
        low, high, at = _RED, _GREEN, panel.bad_below
    steps = [models.Threshold(value=None, color=low)]
    if at is not None:
        steps.append(models.Threshold(value=at, color=high))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _runbook(name: str) -> Builder[models.DashboardLink]:
    link = dashboard.DashboardLink(name).type(models.DashboardLinkType.LINK)
    return link.url(f"{RUNBOOKS}{name}.md").target_blank(True)


def _target(letter: str, query: Query, kind: Kind) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend)
    target.datasource(_SOURCE)
    if kind is Kind.HEATMAP:
        target.format(PromQueryFormat.HEATMAP)
    elif kind is Kind.LINES:
        target.exemplar(True)
    return target.range()
