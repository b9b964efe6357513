"""The kinds of panels of all dashboards, so that panels of one kind look the same."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common as style
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from halcyon_dashboards.queries import Query

SOURCE = models.DataSourceRef(type_val="prometheus", uid="$datasource")
TAG = "halcyon"
_HEIGHT = 8


def time_series(
    title: str,
    unit: str,
    *queries: Query,
    about: str = "",
    width: int = 8,
    stacked: bool = False,
    bars: bool = False,
    least: float | None = 0,
) -> timeseries.Panel:
    """Return a panel with series over time.

    Args:
        title: Title.
        unit: Grafana's name of the unit, such as `s` or `percentunit`.
        queries: The series.
        about: Description of the panel.
        width: Width in columns, of 24.
        stacked: Whether to stack the series.
        bars: Whether to draw bars, for counts of events.
        least: Lower end of the axis; None: from the data.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(SOURCE)
        .span(width)
        .height(_HEIGHT)
        .line_width(1)
    )
    panel = panel.legend(
        style.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).placement(common.LegendPlacement.BOTTOM)
    )
    panel = panel.tooltip(
        style.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    panel = panel.show_points(common.VisibilityMode.NEVER).fill_opacity(30 if stacked else 5)
    if stacked:
        panel = panel.stacking(style.StackingConfig().mode(common.StackingMode.NORMAL))
    if bars:
        panel = panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(60)
    if least is not None:
        panel = panel.min(least)
    for index, query in enumerate(queries):
        panel = panel.with_target(_target(query, index))
    return panel


def stat_panel(
    title: str, unit: str, query: Query, *, about: str = "", width: int = 4, bad_above: float | None = None
) -> stat.Panel:
    """Return a panel with the newest value as a number; red from `bad_above` on."""
    panel = stat.Panel().title(title).description(about).unit(unit).datasource(SOURCE).span(width).height(4)
    panel = panel.graph_mode(common.BigValueGraphMode.AREA).with_target(_target(query, 0))
    panel = panel.reduce_options(style.ReduceDataOptions().calcs(["lastNotNull"]))
    steps = [models.Threshold(color="green")]
    if bad_above is not None:
        steps.append(models.Threshold(value=bad_above, color="red"))
    return panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))


def text_panel(title: str, query: Query) -> stat.Panel:
    """Return a panel with the legend of the query's only current series as text."""
    panel = stat_panel(title, "none", query, width=4).text_mode(common.BigValueTextMode.NAME)
    panel = panel.targets([_target(query, 0).instant()])  # instant: without series of the past
    return panel.graph_mode(common.BigValueGraphMode.NONE)


def table_panel(
    title: str, columns: dict[str, tuple[str, Query]], *, rename: dict[str, str], hide: list[str]
) -> table.Panel:
    """Return a table of runs: one column per query, joined by namespace and run.

    Args:
        title: Title.
        columns: Title of the column → its unit and query.
        rename: Label → title, for columns that come from labels.
        hide: Columns that are not shown.
    """
    panel = table.Panel().title(title).datasource(SOURCE).span(24).height(10)
    names = dict(rename)
    for index, (column, (unit, query)) in enumerate(columns.items()):
        panel = panel.with_target(_target(query, index).instant().format(prometheus_models.PromQueryFormat.TABLE))
        names[f"Value #{_letter(index)}"] = column
        panel = panel.override_by_name(column, [models.DynamicConfigValue(id_val="unit", value=unit)])
    panel = panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    hidden = dict.fromkeys(["Time", *hide], True)
    return panel.with_transformation(
        models.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "renameByName": names})
    )


def board(name: str, title: str, description: str) -> dashboard.Dashboard:
    """Return an empty dashboard with a variable for the data source."""
    made = dashboard.Dashboard(title).uid(f"halcyon-{name}").description(description).tags([TAG]).readonly()
    made = made.time("now-6h", "now").refresh("30s").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    links = (
        dashboard.DashboardLink("Halcyon")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .keep_time(True)
    )
    return made.link(links).with_variable(
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    )


def choice(name: str, title: str, values: str, *, several: bool) -> dashboard.QueryVariable:
    """Return a variable whose values come from Prometheus.

    Args:
        name: Name of the variable.
        title: Label of the variable.
        values: Query of the values, such as `label_values(metric, label)`.
        several: Whether several or all values can be selected.
    """
    variable = dashboard.QueryVariable(name).label(title).datasource(SOURCE).query({"query": values, "refId": name})
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.multi(True).include_all(True).all_value(".*") if several else variable


def annotation(name: str, query: Query, color: str) -> dict[str, Any]:
    """Return an annotation at every minute with a result of the query, as a plain document: the SDK's class has no step
    and no title.
    """
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": color,
        "expr": query.expr,
        "step": "60s",
        "titleFormat": query.legend,
        "useValueForTime": False,
    }


def _target(query: Query, index: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .ref_id(_letter(index))
        .datasource(SOURCE)
    )


def _letter(index: int) -> str:
    return chr(ord("A") + index)
