"""What a dashboard is made of, and how that becomes Grafana's JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import Literal

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

PANEL_HEIGHT, ROW_WIDTH = 8, 24
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

Kind = Literal["lines", "number", "states"]
PanelBuilder = timeseries.Panel | stat.Panel | statetimeline.Panel


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is Grafana's: s, percentunit, reqps, short. `width` is of 24; `top` the end of the axis, if it has one."""

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "lines"
    width: int = 8
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """Values of a label of a metric, to choose from."""

    name: str
    metric: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    text: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def queries(self) -> list[Query]:
        """Those of all panels."""
        return [query for row in self.rows for panel in row.panels for query in panel.queries]


def quantiles(metric: str, by: str = "", where: str = "", of: tuple[float, ...] = (0.5, 0.99)) -> tuple[Query, ...]:
    """Quantiles of a histogram, for each value of the label ``by``."""
    labels, name = ("le", f"{{{{{by}}}}} ") if by else ("le", "")
    grouped = f"{labels}, {by}" if by else labels
    return tuple(
        Query(
            f"histogram_quantile({q:g}, sum by ({grouped}) (rate({metric}_bucket{where}[$__rate_interval])))",
            f"{name}p{q * 100:g}",
        )
        for q in of
    )


def share(part: str, whole: str, by: str, where: str = "") -> Query:
    """What part of the events of one counter are those of another, for each value of the labels ``by``."""
    of_part, of_whole = (f"sum by ({by}) (rate({metric}{where}[$__rate_interval]))" for metric in (part, whole))
    return Query(f"{of_part} / {of_whole}", " ".join(f"{{{{{label}}}}}" for label in by.split(", ")))


def to_json(described: Dashboard) -> str:
    """The file that Grafana reads."""
    page = (
        builders.Dashboard(described.title)
        .uid(described.uid)
        .description(described.text)
        .tags(["trail"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(builders.DashboardLink("trail").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["trail"]))
    )
    for variable in described.variables:
        page.with_variable(_variable(variable))
    numbers = count(1)
    for row in described.rows:
        page.with_row(builders.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            page.with_panel(_panel(panel).id(next(numbers)))
    return json.dumps(page.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(variable: Variable) -> builders.QueryVariable:
    return (
        builders.QueryVariable(variable.name)
        .label(variable.name)
        .datasource(SOURCE)
        .query(f"label_values({variable.metric}, {variable.name})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
    )


def _panel(panel: Panel) -> PanelBuilder:
    built = _KINDS[panel.kind]().title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE)
    built.height(PANEL_HEIGHT if panel.kind != "number" else PANEL_HEIGHT // 2).span(panel.width)
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend or "__auto")
        built.with_target(target.range())
    if panel.top is not None:
        built.min(0).max(panel.top)
    return built


def _lines() -> PanelBuilder:
    legend = common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    return (
        timeseries.Panel()
        .legend(legend.display_mode(common.LegendDisplayMode.LIST))
        .show_points(common.VisibilityMode.NEVER)
        .fill_opacity(8)
        .axis_soft_min(0)
    )


_KINDS = {"lines": _lines, "number": stat.Panel, "states": statetimeline.Panel}
